//! What `tallycast demo` prints at its start: where to look, and what to try.

use std::fmt::{self, Display, Formatter};
use std::net::SocketAddr;

use tallycast::config::Secret;

/// Select Graphic Rendition (ECMA-48): bold, underlined, and neither.
const BOLD: &str = "\u{1b}[1m";
const UNDERLINED: &str = "\u{1b}[4m";
const PLAIN: &str = "\u{1b}[0m";

/// Where the demo is.
pub(crate) struct Greeting {
    pub(crate) address: SocketAddr,
    pub(crate) is_tls: bool,
    pub(crate) has_admin: bool,
    /// The publishing key that the demo has made, if none was given and its routes lead where the commands publish.
    pub(crate) key: Option<Secret>,
    /// Whether text may be bold.
    pub(crate) is_terminal: bool,
}

impl Greeting {
    /// The URL of the root, without a slash at its end.
    fn url(&self) -> String {
        let scheme = if self.is_tls { "https" } else { "http" };
        if self.address.ip().is_unspecified() {
            format!("{scheme}://localhost:{}", self.address.port())
        } else {
            format!("{scheme}://{}", self.address)
        }
    }
}

impl Display for Greeting {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        let url = self.url();
        let [bold, underlined, plain] = if self.is_terminal { [BOLD, UNDERLINED, PLAIN] } else { [""; 3] };
        writeln!(formatter, "\n{bold}tallycast demo{plain}: open {bold}{underlined}{url}/demo/{plain}\n")?;
        let mut page = |name: &str, path: &str, what: &str| {
            let place = format!("{url}{path}");
            writeln!(formatter, "  {name:<8} {place:<42} {what}")
        };
        page("Demos", "/demo/", "counter, prices, chat, notifications: each with its configuration and code")?;
        page("Board", "/", "every emoji with its live total")?;
        if self.has_admin {
            page("Admin", "/admin/", "rates, losses and streams of this server")?;
        }
        writeln!(formatter, "\n  Read     curl -N {url}/subscribe/eps")?;
        if let Some(key) = &self.key {
            let header = format!("-H 'authorization: Bearer {}'", key.expose());
            writeln!(formatter, "  Count    curl {header} -d '{{\"1F602\": 3}}' {url}/count/eps")?;
            writeln!(formatter, "  Notify   curl {header} -d '{{\"text\": \"hello\"}}' {url}/publish/notices/ada")?;
        }
        writeln!(formatter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn greeting(address: &str, is_tls: bool, is_terminal: bool) -> String {
        let address = address.parse().unwrap();
        Greeting { address, is_tls, has_admin: false, key: Some(Secret::new("k")), is_terminal }.to_string()
    }

    #[test]
    fn greeting_names_reachable_urls() {
        let local = greeting("0.0.0.0:8001", false, false);
        assert!(local.starts_with("\ntallycast demo: open http://localhost:8001/demo/\n"), "{local}");
        assert!(local.contains("Bearer k") && !local.contains("/admin/") && !local.contains('\u{1b}'), "{local}");
        let public = greeting("[2001:db8::1]:443", true, true);
        assert!(public.contains(&format!("{UNDERLINED}https://[2001:db8::1]:443/demo/{PLAIN}")), "{public}");
    }
}
