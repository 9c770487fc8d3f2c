//! The flag of nodes that announce themselves.

use clap::Args;

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Cluster")]
pub(super) struct ClusterOptions {
    /// Announce this node to the others that share the broker, and show all of them on the admin page and at
    /// /admin/cluster.json
    #[arg(long, env = "TALLYCAST_CLUSTER")]
    pub(super) cluster: bool,
}
