//! Where a connection came from, in little memory: most of it is kept for operators only.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use crate::{ConnectionInfo, Topics};

/// A [`ConnectionInfo`] without topics, which its feed has.
#[derive(Debug)]
pub(crate) struct Origin {
    /// The path, then the user agent.
    texts: Box<str>,
    path_bytes: u32,
    /// After the Unix epoch, which is enough until the year 2554.
    created_at_nanoseconds: u64,
    pub(crate) client_ip: IpAddr,
}

impl Origin {
    pub(crate) fn new(info: &ConnectionInfo) -> Self {
        let age = info.created_at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self {
            texts: [&*info.request_path, &*info.user_agent].concat().into(),
            path_bytes: u32::try_from(info.request_path.len()).unwrap_or(u32::MAX),
            created_at_nanoseconds: u64::try_from(age.as_nanos()).unwrap_or(u64::MAX),
            client_ip: info.client_ip,
        }
    }

    /// The same, for a connection that reads `topics`.
    pub(crate) fn info(&self, topics: Topics) -> ConnectionInfo {
        let (path, user_agent) = self.texts.split_at(self.path_bytes as usize);
        ConnectionInfo {
            request_path: path.into(),
            topics,
            created_at: SystemTime::UNIX_EPOCH + Duration::from_nanos(self.created_at_nanoseconds),
            client_ip: self.client_ip,
            user_agent: user_agent.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{info, of};

    #[test]
    fn everything_is_kept() {
        let created_at = SystemTime::UNIX_EPOCH + Duration::from_nanos(1_234_567_890_123_456_789);
        let given = ConnectionInfo { created_at, user_agent: "é/1".into(), ..info("/a,/b") };
        let kept = Origin::new(&given).info(of("/c"));
        assert_eq!((&kept.request_path, &kept.user_agent), (&given.request_path, &given.user_agent));
        assert_eq!((kept.created_at, kept.client_ip, kept.topics), (created_at, given.client_ip, of("/c")));
    }
}
