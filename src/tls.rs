//! TLS on ports: certificates and keys, and what clients have to show (feature `tls`).
//!
//! ```no_run
//! use corecast::tls::{Identity, Tls, TlsOptions};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let identity = Identity { chain: std::fs::read("chain.pem")?, key: std::fs::read("key.pem")? };
//! let tls = Tls::new(&TlsOptions { identities: vec![identity], ..TlsOptions::default() })?;
//!
//! let plain = corecast::Port::from("0.0.0.0:80".parse::<std::net::SocketAddr>()?);
//! let mut secure = corecast::Port::from("0.0.0.0:443".parse::<std::net::SocketAddr>()?);
//! secure.tls = Some(tls.clone());
//! let io = corecast::Server::new(corecast::Options::default())?;
//! let running = io.listen_on([plain, secure])?;
//!
//! // Later, with a new certificate: connections that are open keep theirs.
//! # let renewed = tls.clone();
//! tls.replace(&renewed);
//! # Ok(())
//! # }
//! ```

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig, ServerConnection};

use crate::error::Error;

/// How connections of a port speak TLS, 1.2 or 1.3. Cheap to clone; every clone is the same.
///
/// A connection keeps some KiB that a plain one does not, and its handshake takes the shard's time
/// for a signature: prefer ECDSA keys, with which that is many times quicker than with RSA. What
/// is sent to many is encrypted for each of them.
#[derive(Clone)]
pub struct Tls(Arc<ArcSwap<ServerConfig>>);

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

/// A certificate and its key. `Debug` does not show the key.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    /// PEM: the certificate, then those that it was issued by, without the root.
    pub chain: Vec<u8>,
    /// PEM: the private key, as PKCS #8, PKCS #1 or SEC1.
    pub key: Vec<u8>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("chain", &self.chain.len()).finish_non_exhaustive()
    }
}

/// Whether clients have to show a certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ClientAuth {
    /// They are not asked. Default.
    #[default]
    None,
    /// They may: one that does not verify ends the handshake.
    Optional {
        /// PEM: who may have issued them.
        authorities: Vec<u8>,
    },
    /// They must.
    Required {
        /// PEM: who may have issued them.
        authorities: Vec<u8>,
    },
}

/// What a [`Tls`] is made of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsOptions {
    /// At least one. A client gets the first one that is for the name it asks for (SNI) and whose
    /// signature it can check, or else the first one.
    pub identities: Vec<Identity>,
    /// Certificates of clients; see [`Handshake::certificate`](crate::Handshake::certificate).
    pub clients: ClientAuth,
}

impl Tls {
    /// TLS with these certificates. Speaks `http/1.1` (ALPN); resumes sessions on all shards.
    ///
    /// # Errors
    /// [`Error::Tls`]: a certificate, key or authority cannot be read, or they do not fit.
    pub fn new(options: &TlsOptions) -> Result<Tls, Error> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let identities: Result<Vec<_>, _> = options.identities.iter().map(certified).collect();
        let identities = identities?;
        if identities.is_empty() {
            return Err(Error::Tls("there is no certificate".into()));
        }
        let clients = verifier(&options.clients)?;
        let builder = ServerConfig::builder_with_provider(provider);
        let builder = builder.with_safe_default_protocol_versions().map_err(refused)?;
        let builder = builder.with_client_cert_verifier(clients);
        let mut config = builder.with_cert_resolver(Arc::new(Identities(identities)));
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.ticketer = aws_lc_rs::Ticketer::new().map_err(refused)?;
        Ok(Tls::from_config(Arc::new(config)))
    }

    /// TLS as rustls is told to speak it, for what [`TlsOptions`] cannot say.
    pub fn from_config(config: Arc<ServerConfig>) -> Tls {
        Tls(Arc::new(ArcSwap::new(config)))
    }

    /// Lets connections from now on be as those of `other`; those that are open stay as they are.
    /// From any thread.
    pub fn replace(&self, other: &Tls) {
        self.0.store(other.0.load_full());
    }

    /// The server's side of a new connection.
    pub(crate) fn accept(&self) -> Result<ServerConnection, rustls::Error> {
        ServerConnection::new(self.0.load_full())
    }
}

fn refused(error: rustls::Error) -> Error {
    Error::Tls(error.to_string())
}

/// All certificates of a PEM text; at least one.
fn certificates(pem: &[u8], of: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if found.is_empty() => Err(Error::Tls(format!("no certificate in the {of}"))),
        Ok(found) => Ok(found),
        Err(error) => Err(Error::Tls(format!("the {of}: {error}"))),
    }
}

fn certified(identity: &Identity) -> Result<Arc<CertifiedKey>, Error> {
    let chain = certificates(&identity.chain, "certificate chain")?;
    let key = PrivateKeyDer::from_pem_slice(&identity.key)
        .map_err(|error| Error::Tls(format!("the private key: {error}")))?;
    let provider = aws_lc_rs::default_provider();
    let certified = CertifiedKey::from_der(chain, key, &provider).map_err(refused)?;
    // A chain whose first certificate is none would be found out by each client.
    certified.end_entity_cert().and_then(ParsedCertificate::try_from).map_err(refused)?;
    Ok(Arc::new(certified))
}

fn verifier(clients: &ClientAuth) -> Result<Arc<dyn ClientCertVerifier>, Error> {
    let (authorities, is_optional) = match clients {
        ClientAuth::None => return Ok(WebPkiClientVerifier::no_client_auth()),
        ClientAuth::Optional { authorities } => (authorities, true),
        ClientAuth::Required { authorities } => (authorities, false),
    };
    let mut roots = RootCertStore::empty();
    for authority in certificates(authorities, "authorities of clients")? {
        roots.add(authority).map_err(refused)?;
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let builder = if is_optional { builder.allow_unauthenticated() } else { builder };
    builder.build().map_err(|error| Error::Tls(error.to_string()))
}

/// Chooses the certificate for a client.
#[derive(Debug)]
struct Identities(Vec<Arc<CertifiedKey>>);

impl ResolvesServerCert for Identities {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let can_check =
            |it: &&Arc<CertifiedKey>| it.key.choose_scheme(hello.signature_schemes()).is_some();
        let name = hello.server_name().and_then(|name| ServerName::try_from(name).ok());
        let named = name.and_then(|name| {
            let mut fitting = self.0.iter().filter(can_check);
            fitting.find(|identity| is_for(identity, &name))
        });
        let any = named.or_else(|| self.0.iter().find(can_check)).or(self.0.first());
        any.cloned()
    }
}

fn is_for(identity: &CertifiedKey, name: &ServerName<'_>) -> bool {
    let parsed = identity.end_entity_cert().and_then(ParsedCertificate::try_from);
    parsed.is_ok_and(|parsed| rustls::client::verify_server_name(&parsed, name).is_ok())
}

/// A certificate that a client has shown and that was verified: by a trusted issuer, within its
/// time, and the client has its key. Reading it parses it, each time.
#[derive(Debug, Clone)]
pub struct ClientCertificate(Arc<[u8]>);

/// `id-at-commonName`, 2.5.4.3.
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];

impl ClientCertificate {
    pub(crate) fn new(der: Arc<[u8]>) -> ClientCertificate {
        ClientCertificate(der)
    }

    /// The certificate as DER.
    pub fn der(&self) -> &[u8] {
        &self.0
    }

    /// The common name of its subject (CN), if it has one.
    pub fn common_name(&self) -> Option<String> {
        self.read(|parsed| {
            let names = elements(parsed.subject()).flat_map(|(_, set)| elements(set));
            let mut pairs = names.filter_map(|(_, pair)| {
                let mut parts = elements(pair);
                let ((_, kind), (_, value)) = (parts.next()?, parts.next()?);
                (kind == COMMON_NAME).then_some(value)
            });
            Some(std::str::from_utf8(pairs.next()?).ok()?.to_owned())
        })?
    }

    /// The host names that it is for (`subjectAltName`).
    pub fn dns_names(&self) -> Vec<String> {
        self.read(|parsed| parsed.valid_dns_names().map(str::to_owned).collect())
            .unwrap_or_default()
    }

    /// The URIs that it is for (`subjectAltName`), such as a SPIFFE id.
    pub fn uris(&self) -> Vec<String> {
        self.read(|parsed| parsed.valid_uri_names().map(str::to_owned).collect())
            .unwrap_or_default()
    }

    /// It was verified, so it parses again.
    fn read<T>(&self, read: impl FnOnce(&webpki::EndEntityCert<'_>) -> T) -> Option<T> {
        let der = CertificateDer::from(&*self.0);
        let parsed = webpki::EndEntityCert::try_from(&der).ok()?;
        Some(read(&parsed))
    }
}

/// The elements of DER that follow each other: their tags and contents.
fn elements(mut bytes: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let (tag, first, rest) = match bytes {
            [tag, first, rest @ ..] => (*tag, usize::from(*first), rest),
            _ => return None,
        };
        let (length, rest) = match first {
            0..=0x7f => (first, rest),
            0x81 => (usize::from(*rest.first()?), &rest[1..]),
            0x82 => (usize::from(u16::from_be_bytes(*rest.first_chunk()?)), &rest[2..]),
            _ => return None,
        };
        let (content, behind) = rest.split_at_checked(length)?;
        bytes = behind;
        Some((tag, content))
    })
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    fn identity(names: &[&str]) -> Identity {
        let names = names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
        Identity {
            chain: made.cert.pem().into_bytes(),
            key: made.signing_key.serialize_pem().into_bytes(),
        }
    }

    fn error(options: &TlsOptions) -> String {
        Tls::new(options).expect_err("it cannot work").to_string()
    }

    #[test]
    fn what_cannot_work_is_named_and_no_key_is_told() {
        let good = identity(&["a.test"]);
        let other = identity(&["b.test"]);
        let with = |identity| TlsOptions { identities: vec![identity], ..TlsOptions::default() };
        assert!(Tls::new(&with(good.clone())).is_ok());
        assert_eq!(error(&TlsOptions::default()), "TLS: there is no certificate");
        let empty = Identity { chain: Vec::new(), ..good.clone() };
        assert_eq!(error(&with(empty)), "TLS: no certificate in the certificate chain");
        let mixed = Identity { key: other.key.clone(), ..good.clone() };
        assert!(error(&with(mixed)).contains("KeyMismatch"));
        let none = Identity { key: good.chain.clone(), ..good.clone() };
        assert!(error(&with(none)).starts_with("TLS: the private key: "));
        let clients = ClientAuth::Required { authorities: b"nothing".to_vec() };
        let nobody = error(&TlsOptions { clients, ..with(good.clone()) });
        assert_eq!(nobody, "TLS: no certificate in the authorities of clients");
        assert!(!format!("{:?}", with(good)).contains("PRIVATE"));
    }

    #[test]
    fn the_names_of_a_certificate_are_read() {
        let mut params = CertificateParams::new(vec!["a.test".into()]).expect("good names");
        params.distinguished_name.push(DnType::OrganizationName, "Org");
        params.distinguished_name.push(DnType::CommonName, "Ada Lovelace");
        let uri = "spiffe://test/ada".try_into().expect("a name");
        params.subject_alt_names.push(SanType::URI(uri));
        let key = KeyPair::generate().expect("a key");
        let made = params.self_signed(&key).expect("a certificate");
        let certificate = ClientCertificate::new(made.der().to_vec().into());
        assert_eq!(certificate.common_name().as_deref(), Some("Ada Lovelace"));
        assert_eq!(certificate.dns_names(), ["a.test"]);
        assert_eq!(certificate.uris(), ["spiffe://test/ada"]);
        let broken = ClientCertificate::new(Arc::from(&b"broken"[..]));
        assert_eq!((broken.common_name(), broken.dns_names().len()), (None, 0));
    }
}
