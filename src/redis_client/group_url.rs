//! URLs that name several servers: the Sentinels of a primary, or nodes of a cluster.

use std::fmt::Write;

use percent_encoding::percent_decode_str;
use redis::{ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo};

use super::url::{Topology, UrlError};

const SENTINEL_PORT: &str = "26379";
const REDIS_PORT: &str = "6379";

/// The parts of a URL, as it has them.
struct Parts<'a> {
    /// `redis` or `rediss`.
    scheme: &'static str,
    credentials: Option<&'a str>,
    hosts: &'a str,
    /// What follows the first slash after the hosts.
    path: Option<&'a str>,
    options: Options,
    /// TLS certificates are not verified.
    is_insecure: bool,
}

#[derive(Default)]
struct Options {
    reads_replicas: bool,
    sentinel_user: Option<String>,
    sentinel_password: Option<String>,
}

/// The servers, whether replicas are read, and the URL without its passwords; `None` for a URL of another form.
pub(super) fn parse(text: &str) -> Result<Option<(Topology, bool, String)>, UrlError> {
    let Some((scheme, rest)) = text.split_once("://") else { return Ok(None) };
    let (tls, kind): (_, fn(&'static str) -> UrlError) = match scheme {
        "redis+sentinel" => ("redis", UrlError::Sentinel),
        "rediss+sentinel" => ("rediss", UrlError::Sentinel),
        "redis+cluster" => ("redis", UrlError::Cluster),
        "rediss+cluster" => ("rediss", UrlError::Cluster),
        _ => return Ok(None),
    };
    let parts = parts(tls, rest).map_err(kind)?;
    let topology = if scheme.ends_with("sentinel") { sentinel(&parts) } else { cluster(&parts) };
    Ok(Some((topology.map_err(kind)?, parts.options.reads_replicas, masked(scheme, &parts))))
}

/// An error is the reason, which repeats nothing of the text.
fn parts<'a>(scheme: &'static str, rest: &'a str) -> Result<Parts<'a>, &'static str> {
    let (rest, fragment) = rest.split_once('#').map_or((rest, None), |(rest, fragment)| (rest, Some(fragment)));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = rest.split_once('/').map_or((rest, None), |(authority, path)| (authority, Some(path)));
    if path.is_some_and(|path| path.contains('@')) {
        return Err("/ in a password, and @ in a name, must be percent-encoded");
    }
    let is_insecure = match fragment {
        None => false,
        Some("insecure") if scheme == "rediss" => true,
        Some("insecure") => return Err("#insecure is for TLS"),
        Some(_) => {
            return Err("# is followed by something else than insecure; in a password, it must be percent-encoded");
        }
    };
    let (credentials, hosts) =
        authority.rsplit_once('@').map_or((None, authority), |(credentials, hosts)| (Some(credentials), hosts));
    Ok(Parts { scheme, credentials, hosts, path, options: options(query)?, is_insecure })
}

fn options(query: &str) -> Result<Options, &'static str> {
    let mut options = Options::default();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        match &*name {
            "read" => {
                options.reads_replicas = match &*value {
                    "replica" => true,
                    "primary" => false,
                    _ => return Err("read is neither replica nor primary"),
                }
            }
            "sentinel-user" => options.sentinel_user = Some(value.into_owned()),
            "sentinel-password" => options.sentinel_password = Some(value.into_owned()),
            _ => return Err("unknown option"),
        }
    }
    Ok(options)
}

fn sentinel(parts: &Parts<'_>) -> Result<Topology, &'static str> {
    let path = parts.path.filter(|path| !path.is_empty()).ok_or("the name of the primary is missing")?;
    let (name, database) = path.split_once('/').unwrap_or((path, ""));
    let name = percent_decode_str(name).decode_utf8().map_err(|_| "the name of the primary is not UTF-8")?;
    if name.is_empty() || database.contains('/') {
        return Err("the name of the primary is missing, or too much follows it");
    }
    let first = parts.hosts.split(',').next().unwrap_or_default();
    let server = parts.info(first, REDIS_PORT, parts.credentials, database)?;
    let mut settings = RedisConnectionInfo::default();
    if let Some(user) = &parts.options.sentinel_user {
        settings = settings.set_username(user);
    }
    if let Some(password) = &parts.options.sentinel_password {
        settings = settings.set_password(password);
    }
    let with_settings = |info: ConnectionInfo| info.set_redis_settings(settings.clone());
    let infos = parts.infos(SENTINEL_PORT, None)?;
    Ok(Topology::Sentinel {
        sentinels: infos.into_iter().map(with_settings).collect(),
        name: name.into_owned(),
        server,
    })
}

fn cluster(parts: &Parts<'_>) -> Result<Topology, &'static str> {
    if parts.path.is_some_and(|path| !path.is_empty()) {
        return Err("a cluster has one database, and no name");
    }
    if parts.options.sentinel_user.is_some() || parts.options.sentinel_password.is_some() {
        return Err("a cluster has no Sentinels");
    }
    Ok(Topology::Cluster(parts.infos(REDIS_PORT, parts.credentials)?))
}

impl Parts<'_> {
    /// How to connect to each host.
    fn infos(&self, port: &str, credentials: Option<&str>) -> Result<Vec<ConnectionInfo>, &'static str> {
        self.hosts.split(',').map(|host| self.info(host, port, credentials, "")).collect()
    }

    fn info(
        &self,
        host: &str,
        default_port: &str,
        credentials: Option<&str>,
        database: &str,
    ) -> Result<ConnectionInfo, &'static str> {
        let mut url = format!("{}://", self.scheme);
        // Writing to a string never fails.
        if let Some(credentials) = credentials {
            let _ = write!(url, "{credentials}@");
        }
        // An IPv6 address is in brackets.
        let has_port = host.rsplit(']').next().is_some_and(|end| end.contains(':'));
        let _ = if has_port { write!(url, "{host}") } else { write!(url, "{host}:{default_port}") };
        let _ = write!(url, "/{database}{}", if self.is_insecure { "#insecure" } else { "" });
        // Without the library's detail, which repeats part of the URL.
        url.into_connection_info().map_err(|_| "a host, port, user, password or database is invalid")
    }
}

/// The URL without its passwords.
fn masked(scheme: &str, parts: &Parts<'_>) -> String {
    let mut url = format!("{scheme}://");
    if let Some(credentials) = parts.credentials {
        let user = credentials.split(':').next().unwrap_or_default();
        let _ = write!(url, "{user}:***@");
    }
    url.push_str(parts.hosts);
    if let Some(path) = parts.path {
        let _ = write!(url, "/{path}");
    }
    let mut separator = '?';
    for (is_set, option) in [
        (parts.options.reads_replicas, "read=replica"),
        (parts.options.sentinel_user.is_some(), "sentinel-user=***"),
        (parts.options.sentinel_password.is_some(), "sentinel-password=***"),
    ] {
        if is_set {
            let _ = write!(url, "{separator}{option}");
            separator = '&';
        }
    }
    if parts.is_insecure {
        url.push_str("#insecure");
    }
    url
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use redis::ConnectionAddr;

    use super::*;
    use crate::redis_client::RedisUrl;

    fn url(text: &str) -> RedisUrl {
        text.parse().unwrap()
    }

    fn addresses(infos: &[ConnectionInfo]) -> String {
        infos.iter().map(|info| info.addr().to_string()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn sentinels_have_hosts_a_name_and_passwords_of_their_own() {
        let text =
            "redis+sentinel://ann:s%40fe@one,two:5000,[::1]/my%20primary/3?read=replica&sentinel-password=p%40ss";
        let url = url(text);
        let Topology::Sentinel { sentinels, name, server } = &url.topology else { panic!() };
        assert_eq!(addresses(sentinels), "one:26379 two:5000 ::1:26379");
        assert_eq!((&**name, server.redis_settings().db(), url.reads_replicas), ("my primary", 3, true));
        let settings = server.redis_settings();
        assert_eq!((settings.username(), settings.password()), (Some("ann"), Some("s@fe")));
        let settings = sentinels[0].redis_settings();
        assert_eq!((settings.username(), settings.password(), settings.db()), (None, Some("p@ss"), 0));
        assert_eq!(
            url.to_string(),
            "redis+sentinel://ann:***@one,two:5000,[::1]/my%20primary/3?read=replica&sentinel-password=***"
        );
    }

    #[test]
    fn clusters_have_nodes_and_may_use_tls() {
        let url = url("rediss+cluster://:secret@one:7000,two#insecure");
        let Topology::Cluster(seeds) = &url.topology else { panic!() };
        assert_eq!(addresses(seeds), "one:7000 two:6379");
        assert!(matches!(seeds[1].addr(), ConnectionAddr::TcpTls { insecure: true, .. }));
        assert_eq!(seeds[1].redis_settings().password(), Some("secret"));
        assert_eq!(
            (url.to_string(), url.is_cluster()),
            ("rediss+cluster://:***@one:7000,two#insecure".to_owned(), true)
        );
    }

    #[test]
    fn each_bad_form_has_a_reason() {
        for (text, reason) in [
            ("redis+sentinel://host", "the name of the primary is missing"),
            ("redis+sentinel://host/", "the name of the primary is missing"),
            ("redis+sentinel://host/name/1/2", "too much follows"),
            ("redis+sentinel://host/name/one", "a host, port, user, password or database is invalid"),
            ("redis+sentinel://one,,two/name", "a host, port"),
            ("redis+sentinel:///name", "a host, port"),
            ("redis+sentinel://host/name?read=some", "read is neither"),
            ("redis+sentinel://host/name?db=1", "unknown option"),
            ("redis+sentinel://host/name#insecure", "#insecure is for TLS"),
            ("redis+sentinel://u:hu/sh@host/name", "must be percent-encoded"),
            ("redis+sentinel://u:hu#sh@host/name", "must be percent-encoded"),
            ("redis+cluster://host/1", "a cluster has one database"),
            ("redis+cluster://host:port", "a host, port"),
            ("redis+cluster://host?sentinel-password=hush", "a cluster has no Sentinels"),
        ] {
            let error = text.parse::<RedisUrl>().unwrap_err().to_string();
            assert!(error.starts_with("invalid Redis URL (") && error.contains(reason), "{text} -> {error}");
            assert!(!error.contains("hu"), "{text} -> {error}");
        }
    }

    proptest! {
        #[test]
        fn no_url_of_several_servers_displays_its_passwords(
            kind in "rediss?\\+(sentinel|cluster)",
            before in "[a-z:@/?#&=,]{0,8}",
            separator in "[:=]",
            after in "[a-z0-9:@/?#&=,]{0,6}",
            end in "(@[a-z]{1,4}(/[a-z]{1,3})?)?(\\?sentinel-password=[a-z/@:]{0,3}THIRD)?",
        ) {
            // In upper case, unlike every other part.
            let text = format!("{kind}://{before}{separator}FIRST{after}LAST{end}");
            let Ok(url) = text.parse::<RedisUrl>() else { return Ok(()) };
            let infos = match &url.topology {
                Topology::Sentinel { sentinels, server, .. } => [&sentinels[..], std::slice::from_ref(server)].concat(),
                Topology::Cluster(seeds) => seeds.clone(),
                Topology::Single(_) => unreachable!(),
            };
            for (secret, info) in ["FIRST", "LAST", "THIRD"].into_iter().flat_map(|secret| infos.iter().map(move |info| (secret, info))) {
                if info.redis_settings().password().is_some_and(|password| password.contains(secret)) {
                    prop_assert!(!url.to_string().contains(secret), "{} -> {}", text, url);
                }
            }
        }
    }
}
