//! The data port: TLS and its files, proxies in front, how many clients may come.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::config::{Config, Server};
use super::state::State;
use crate::tls::{ClientAuth, Identity, Tls, TlsOptions};
use crate::{Forwarded, Options, Port};

/// Files are looked at this long after the last change in their folders: what belongs together is
/// seldom written at once.
const SETTLE: Duration = Duration::from_millis(300);
/// But no later than this, where other files change all the time.
const SETTLE_MAX: Duration = Duration::from_secs(3);
/// And this often without any change, for file systems that do not tell.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// TLS.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    /// Addresses that clients connect to over TLS (`https:`, `wss:`), beside `server.listen`.
    /// Default: none. Not reloaded.
    pub listen: Vec<SocketAddr>,
    /// Certificates, each with its key. A client gets the first one that is for the name it asks
    /// for, or else the first of all. The files are read again when they change; connections that
    /// are open stay as they are. Default: none. Reloaded.
    #[serde(rename = "certificate")]
    pub certificates: Vec<Certificate>,
    /// Whether clients have to show a certificate. Default: `none`. Reloaded.
    pub client_certificates: ClientCertificates,
    /// PEM file of the authorities whose certificates of clients are taken; read again when it
    /// changes. Default: none. Reloaded.
    pub client_authorities: Option<PathBuf>,
}

/// A certificate and its key.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// PEM file: the certificate, then those that it was issued by, without the root
    /// (`fullchain.pem`).
    pub chain: PathBuf,
    /// PEM file: the private key, not encrypted (`privkey.pem`).
    pub key: PathBuf,
}

/// Whether clients have to show a certificate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ClientCertificates {
    /// They are not asked.
    #[default]
    None,
    /// They may; one that does not verify ends the connection.
    Optional,
    /// They must.
    Required,
}

/// Proxies between clients and the gateway.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ProxyConfig {
    /// Networks of the proxies whose word is taken for who their clients are, such as
    /// `10.0.0.0/8`, or single addresses. Default: none.
    pub trusted: Vec<String>,
    /// The header in which they say it; it has to be the one that all of them write. Default:
    /// `x-forwarded-for`.
    pub header: ProxyHeader,
    /// Addresses, of those that are listened on, where each connection begins with a header of the
    /// PROXY protocol, version 2; others than trusted proxies are closed there. Default: none. Not
    /// reloaded.
    pub protocol: Vec<SocketAddr>,
}

/// Where a proxy says who its client is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ProxyHeader {
    /// `X-Forwarded-For`.
    #[default]
    XForwardedFor,
    /// `Forwarded` (RFC 7239).
    Forwarded,
    /// Nowhere.
    None,
}

/// Adds to the options of the server what concerns where clients come from.
///
/// # Errors
/// A value cannot be; the text names the key.
pub(super) fn options(config: &Config, options: Options) -> Result<Options, String> {
    let limits = &config.limits;
    let bounds = [
        ("connections", limits.connections.map(|it| it as u64)),
        ("connections_per_ip", limits.connections_per_ip.map(u64::from)),
        ("handshakes_per_second_per_ip", limits.handshakes_per_second_per_ip.map(u64::from)),
    ];
    let is_wrong = |value: u64| !(1..=1_000_000_000).contains(&value);
    if let Some((key, _)) = bounds.iter().find(|(_, value)| value.is_some_and(is_wrong)) {
        return Err(format!("limits.{key}: must be 1 to 1,000,000,000"));
    }
    let trusted = config.server.proxy.trusted.iter().map(|text| network(text));
    Ok(Options {
        max_total_connections: limits.connections,
        max_connections_per_ip: limits.connections_per_ip,
        max_handshakes_per_ip: limits.handshakes_per_second_per_ip,
        trusted_proxies: trusted.collect::<Result<_, _>>()?,
        forwarded: match config.server.proxy.header {
            ProxyHeader::XForwardedFor => Forwarded::XForwardedFor,
            ProxyHeader::Forwarded => Forwarded::Standard,
            ProxyHeader::None => Forwarded::Ignored,
        },
        ..options
    })
}

fn network(text: &str) -> Result<IpNet, String> {
    let single = || text.parse::<IpAddr>().map(IpNet::from);
    let network = text.parse::<IpNet>().or_else(|_| single());
    network.map_err(|_| {
        format!("server.proxy.trusted: \"{text}\" is no network such as 10.0.0.0/8, and no address")
    })
}

/// Where to listen, with all certificates read.
///
/// # Errors
/// A file cannot be used, or keys contradict each other; the text names them.
pub(crate) fn ports(server: &Server) -> Result<Vec<Port>, String> {
    let (TlsConfig { listen, .. }, proxy) = (&server.tls, &server.proxy);
    let tls = match listen.is_empty() && server.tls.certificates.is_empty() {
        true => None,
        false => Some(tls(&server.tls)?),
    };
    let all = || server.listen.iter().chain(listen);
    if all().next().is_none() {
        return Err("server.listen: there is no address to listen on".into());
    }
    if let Some(address) = proxy.protocol.iter().find(|it| !all().any(|known| known == *it)) {
        let hint = "it has to be in server.listen or server.tls.listen";
        return Err(format!("server.proxy.protocol: nobody listens on {address}; {hint}"));
    }
    if !proxy.protocol.is_empty() && proxy.trusted.is_empty() {
        let hint = "without trusted proxies nobody could connect there";
        return Err(format!("server.proxy.trusted: is needed by server.proxy.protocol; {hint}"));
    }
    let port = |address: &SocketAddr, tls: Option<Tls>| {
        let mut port = Port::from(*address);
        port.proxy_protocol = proxy.protocol.contains(address);
        port.tls = tls;
        port
    };
    let plain = server.listen.iter().map(|address| port(address, None));
    let secure = listen.iter().map(|address| port(address, tls.clone()));
    Ok(plain.chain(secure).collect())
}

fn tls(config: &TlsConfig) -> Result<Tls, String> {
    if config.certificates.is_empty() {
        return Err("server.tls.certificate: is needed by server.tls.listen".into());
    }
    make(config, &read(config)?)
}

/// TLS with these files, which are those of `config`.
fn make(config: &TlsConfig, options: &TlsOptions) -> Result<Tls, String> {
    // One after the other, to know which one it is.
    let alone = config.certificates.iter().zip(&options.identities).enumerate();
    let wrong = alone.filter_map(|(at, (files, identity))| {
        let identities = vec![identity.clone()];
        let error = Tls::new(&TlsOptions { identities, ..TlsOptions::default() }).err()?;
        let (chain, key) = (files.chain.display(), files.key.display());
        Some(format!("server.tls.certificate[{at}]: {chain} and {key}: {}", reason(&error)))
    });
    let wrong: Vec<String> = wrong.collect();
    if !wrong.is_empty() {
        return Err(wrong.join("\n"));
    }
    Tls::new(options).map_err(|error| {
        let file = config.client_authorities.as_deref().unwrap_or(Path::new(""));
        format!("server.tls.client_authorities: {}: {}", file.display(), reason(&error))
    })
}

/// An error of TLS in words for who has the files.
fn reason(error: &crate::Error) -> String {
    let text = match error {
        crate::Error::Tls(text) => text.clone(),
        other => other.to_string(),
    };
    match text.contains("KeyMismatch") {
        true => "the key is not that of the certificate (KeyMismatch)".into(),
        false => text,
    }
}

/// Reads the files.
fn read(config: &TlsConfig) -> Result<TlsOptions, String> {
    let file = |key: &str, path: &Path| {
        let text = std::fs::read(path);
        text.map_err(|error| format!("server.tls.{key}: {}: {error}", path.display()))
    };
    let mut wrong = Vec::new();
    let mut identities = Vec::new();
    for (at, it) in config.certificates.iter().enumerate() {
        let chain = file(&format!("certificate[{at}].chain"), &it.chain);
        let key = file(&format!("certificate[{at}].key"), &it.key);
        match (chain, key) {
            (Ok(chain), Ok(key)) => identities.push(Identity { chain, key }),
            (chain, key) => wrong.extend(chain.err().into_iter().chain(key.err())),
        }
    }
    let authorities = config.client_authorities.as_deref();
    let authorities = authorities.map(|path| file("client_authorities", path)).transpose();
    let authorities = authorities.unwrap_or_else(|error| {
        wrong.push(error);
        None
    });
    if !wrong.is_empty() {
        return Err(wrong.join("\n"));
    }
    let clients = match (config.client_certificates, authorities) {
        (ClientCertificates::None, _) => ClientAuth::None,
        (ClientCertificates::Optional, Some(authorities)) => ClientAuth::Optional { authorities },
        (ClientCertificates::Required, Some(authorities)) => ClientAuth::Required { authorities },
        (_, None) => {
            return Err("server.tls.client_authorities: is needed by client_certificates".into());
        }
    };
    Ok(TlsOptions { identities, clients })
}

/// The folders whose changes concern the files. A file may be replaced, or be a link through other
/// folders, which is why folders are watched and not files.
fn folders(config: &TlsConfig) -> BTreeSet<PathBuf> {
    let certificates = config.certificates.iter().flat_map(|it| [&it.chain, &it.key]);
    let files = certificates.chain(&config.client_authorities);
    let folder = |path: &Path| match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    };
    let real = |path: &PathBuf| path.canonicalize().ok();
    let both = files.flat_map(|path| [Some(path.clone()), real(path)]);
    both.flatten().map(|it| folder(&it)).collect()
}

/// Takes over certificates, keys and authorities whenever their files change, on a thread of its
/// own. What cannot be used changes nothing and is logged.
///
/// # Errors
/// The thread cannot be started.
pub(super) fn watch(state: &Arc<State>) -> std::io::Result<()> {
    let Some(tls) = state.tls.clone() else { return Ok(()) };
    let state = state.clone();
    let mut known = read(&state.rules().config.server.tls);
    let watching = move || {
        let (changed, changes) = channel();
        let mut watched = BTreeSet::new();
        let mut watcher = None;
        loop {
            let rules = state.rules();
            let config = &rules.config.server.tls;
            let folders = folders(config);
            if folders != watched {
                watcher = watch_folders(&folders, &changed);
                watched = folders;
            }
            let now = read(config);
            if now != known {
                take_over(&tls, config, &now);
                known = now;
            }
            // A reload in the meantime may name other files.
            let is_over = Arc::ptr_eq(&rules, &state.rules()) && wait(&changes).is_err();
            if is_over {
                // Not before the watcher has gone.
                return drop(watcher);
            }
        }
    };
    std::thread::Builder::new().name("certificates".into()).spawn(watching)?;
    Ok(())
}

fn take_over(tls: &Tls, config: &TlsConfig, files: &Result<TlsOptions, String>) {
    let made = files.as_ref().map_err(Clone::clone).and_then(|files| make(config, files));
    match made {
        Ok(new) => {
            tls.replace(&new);
            tracing::info!("certificates have changed; new connections get the new ones");
        }
        Err(error) => {
            let error = error.replace('\n', "; ");
            tracing::error!("certificates have changed, and cannot be used; the old stay: {error}");
        }
    }
}

/// Where folders cannot be watched, the files are still looked at from time to time.
fn watch_folders(folders: &BTreeSet<PathBuf>, changed: &Sender<()>) -> Option<RecommendedWatcher> {
    let changed = changed.clone();
    let made = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading them is told as well.
        if !event.is_ok_and(|event| event.kind.is_access()) {
            let _ = changed.send(());
        }
    });
    let mut watcher = match made {
        Ok(watcher) => watcher,
        Err(error) => {
            tracing::warn!("certificates are looked at every {LOOK_AGAIN:?} only: {error}");
            return None;
        }
    };
    for folder in folders {
        if let Err(error) = watcher.watch(folder, RecursiveMode::NonRecursive) {
            tracing::warn!("{} cannot be watched: {error}", folder.display());
        }
    }
    Some(watcher)
}

/// Waits for a change, and until there are no more for a while.
fn wait(changes: &Receiver<()>) -> Result<(), RecvTimeoutError> {
    match changes.recv_timeout(LOOK_AGAIN) {
        Ok(()) => {}
        Err(RecvTimeoutError::Timeout) => return Ok(()),
        Err(error) => return Err(error),
    }
    let late = Instant::now() + SETTLE_MAX;
    while Instant::now() < late && changes.recv_timeout(SETTLE).is_ok() {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(text: &str) -> Server {
        toml::from_str(text).expect("good TOML")
    }

    #[test]
    fn what_contradicts_itself_is_named() {
        for (text, expected) in [
            ("listen = []", "server.listen: there is no address"),
            ("tls.listen = ['127.0.0.1:1']", "server.tls.certificate: is needed"),
            ("proxy.protocol = ['127.0.0.1:1']", "server.proxy.protocol: nobody listens"),
            (
                "listen = ['127.0.0.1:1']\nproxy.protocol = ['127.0.0.1:1']",
                "server.proxy.trusted: is needed",
            ),
            (
                "tls.certificate = [{ chain = '/no/such/file', key = '/none' }]",
                "server.tls.certificate[0].chain: /no/such/file: No such file",
            ),
        ] {
            let error = ports(&server(text)).expect_err(text);
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn proxies_are_networks_or_addresses() {
        assert_eq!(network("10.0.0.0/8").expect("a network").to_string(), "10.0.0.0/8");
        assert_eq!(network("10.0.0.1").expect("an address").to_string(), "10.0.0.1/32");
        assert_eq!(network("::1").expect("an address").to_string(), "::1/128");
        assert!(network("10.0.0.0/33").is_err_and(|error| error.contains("10.0.0.0/33")));
    }

    #[test]
    fn limits_of_zero_are_refused() {
        let mut config = Config::default();
        config.limits.connections_per_ip = Some(0);
        let error = options(&config, Options::default()).expect_err("nobody could connect");
        assert_eq!(error, "limits.connections_per_ip: must be 1 to 1,000,000,000");
    }
}
