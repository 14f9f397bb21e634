//! Key sets over HTTP: rotated, away, slow, and full of rubbish.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jsonwebtoken::Algorithm;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

use crate::certificates::{Authority, Issued};
use crate::peer::{Peer, reload};
use crate::rig::{Folder, Gateway, until};
use crate::tokens::Signer;

const NAMESPACE: &str = "[[namespace]]\nname = \"/\"\n";

/// What a provider does with requests.
#[derive(Clone)]
enum Mood {
    /// Answers 200 with a body and more headers, or 304 if the client has this tag.
    Body(String, &'static str),
    /// Closes the connection.
    Away,
    /// Reads, and says nothing.
    Slow,
    Status(u16),
    /// Sends elsewhere.
    Redirect(String),
    /// Sends a body without end.
    Endless,
}

/// An identity provider that serves a key set.
struct Provider {
    scheme: &'static str,
    address: SocketAddr,
    mood: Arc<Mutex<Mood>>,
    /// Heads of the requests so far, in lower case.
    requests: Arc<Mutex<Vec<String>>>,
}

impl Provider {
    fn start(mood: Mood) -> Provider {
        Provider::with(mood, None)
    }

    /// The same over TLS.
    fn secure(mood: Mood, issued: &Issued) -> Provider {
        let chain = CertificateDer::from_pem_slice(issued.chain.as_bytes()).expect("PEM");
        let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).expect("PEM");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider);
        let builder = builder.with_safe_default_protocol_versions().expect("versions");
        let config = builder.with_no_client_auth().with_single_cert(vec![chain], key);
        Provider::with(mood, Some(Arc::new(config.expect("they fit"))))
    }

    fn with(mood: Mood, tls: Option<Arc<ServerConfig>>) -> Provider {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let (mood, requests) = (Arc::new(Mutex::new(mood)), Arc::default());
        let scheme = if tls.is_some() { "https" } else { "http" };
        let provider = Provider { scheme, address, mood, requests };
        let (mood, requests) = (provider.mood.clone(), provider.requests.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (mood, requests, tls) = (mood.clone(), requests.clone(), tls.clone());
                std::thread::spawn(move || match tls {
                    None => serve(stream, &mood, &requests),
                    Some(tls) => {
                        let connection = ServerConnection::new(tls).expect("a configuration");
                        serve(StreamOwned::new(connection, stream), &mood, &requests);
                    }
                });
            }
        });
        provider
    }

    fn become_(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    fn count(&self) -> usize {
        self.requests.lock().unwrap().len()
    }

    fn url(&self) -> String {
        format!("{}://{}/keys", self.scheme, self.address)
    }

    fn config(&self) -> String {
        format!("[[auth.key]]\njwks_url = \"{}\"\n{NAMESPACE}", self.url())
    }
}

fn serve(mut stream: impl Read + Write, mood: &Mutex<Mood>, requests: &Mutex<Vec<String>>) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return,
        }
    }
    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
    requests.lock().unwrap().push(head.clone());
    let mood = mood.lock().unwrap().clone();
    let answer = match mood {
        Mood::Away => return,
        Mood::Slow => return std::thread::sleep(Duration::from_secs(60)),
        Mood::Endless => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 999999999\r\n\r\n");
            while stream.write_all(&[b' '; 65_536]).is_ok() {}
            return;
        }
        Mood::Redirect(url) => {
            format!("HTTP/1.1 302 Found\r\nLocation: {url}\r\nContent-Length: 0\r\n\r\n")
        }
        Mood::Status(status) => format!("HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n"),
        Mood::Body(_, headers)
            if headers.contains("\"v1\"") && head.contains("if-none-match: \"v1\"") =>
        {
            format!("HTTP/1.1 304 Not Modified\r\n{headers}\r\n")
        }
        Mood::Body(body, headers) => {
            let length = body.len();
            format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n{headers}\r\n{body}")
        }
    };
    let _ = stream.write_all(answer.as_bytes());
}

fn set(signers: &[&Signer]) -> String {
    json!({ "keys": signers.iter().map(|it| it.jwk()).collect::<Vec<_>>() }).to_string()
}

fn try_token(gateway: &Gateway, token: &str) -> Value {
    match Peer::join(gateway, json!({ "token": token })) {
        Ok(_) => Value::Null,
        Err(error) => error["data"].clone(),
    }
}

fn code(gateway: &Gateway, token: &str) -> String {
    try_token(gateway, token)["code"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn keys_of_every_kind_come_from_a_set() {
    use Algorithm::{ES256, ES384, EdDSA, HS256, PS256, RS256, RS512};
    let signers = [RS256, ES256, ES384, EdDSA].map(|it| Signer::new(it).named(&format!("{it:?}")));
    // A secret in a public place is no key, and neither is one that is for encryption.
    let secret = Signer::secret(HS256, "everybody-can-read-this-secret-in-the-set").named("HS256");
    let encryption = Signer::new(ES256).named("enc");
    let mut keys: Vec<Value> = signers.iter().map(Signer::jwk).collect();
    keys.push(secret.jwk());
    keys.push(encryption.jwk());
    keys[5]["use"] = "enc".into();
    keys.push(json!({ "kty": "odd" }));
    // Without `alg`, an RSA key does for all algorithms of its kind.
    keys[0].as_object_mut().unwrap().remove("alg");
    let provider = Provider::start(Mood::Body(json!({ "keys": keys }).to_string(), ""));
    let gateway = Gateway::start(&provider.config());
    for signer in &signers {
        assert_eq!(code(&gateway, &signer.token("ada")), "", "{:?}", signer.algorithm);
    }
    for algorithm in [RS512, PS256] {
        assert_eq!(code(&gateway, &signers[0].with(algorithm).token("ada")), "");
    }
    let nameless = signers[1].nameless();
    assert_eq!(code(&gateway, &nameless.token("ada")), "");
    assert_eq!(provider.count(), 1, "fetched once for all");
    assert_eq!(code(&gateway, &secret.token("ada")), "token_algorithm");
    // It may have come into the set since then.
    assert_eq!(code(&gateway, &encryption.token("ada")), "keys_unavailable");
    assert_eq!(
        code(&gateway, &signers[2].with(ES384).named("ES256").token("ada")),
        "token_key_unknown"
    );
    assert_eq!(code(&gateway, &Signer::new(ES256).named("ES256").token("ada")), "token_signature");
}

#[test]
fn a_set_rotates_and_outlives_its_provider() {
    let [old, new, never] =
        ["old", "new", "never"].map(|kid| Signer::new(Algorithm::ES256).named(kid));
    let [old_token, new_token, unknown] = [&old, &new, &never].map(|it| it.token("ada"));
    let provider = Provider::start(Mood::Body(set(&[&old]), "Cache-Control: max-age=3600\r\n"));
    let config = provider.config();
    let gateway = Gateway::start(&config);
    for _ in 0..3 {
        assert_eq!(code(&gateway, &old_token), "");
    }
    assert_eq!(provider.count(), 1);
    // Rotated: a token that names the new key has it fetched, as soon as it may be.
    provider.become_(Mood::Body(set(&[&new]), "ETag: \"v1\"\r\nCache-Control: no-cache\r\n"));
    until("the new key", || {
        let code = code(&gateway, &new_token);
        // The set was fetched just now, so it cannot be told whether the key is good.
        assert!(code.is_empty() || code == "keys_unavailable", "{code}");
        code.is_empty()
    });
    assert_eq!(provider.count(), 2, "unknown keys do not have it fetched without end");
    assert_eq!(code(&gateway, &old_token), "keys_unavailable", "a key that is gone is gone");
    // Away in many ways: what is known goes on to hold, also when the configuration is read again.
    let moods = [Mood::Away, Mood::Status(500), Mood::Body("<html>".into(), "")];
    for mood in moods.into_iter().chain([Mood::Body(r#"{"keys":[]}"#.into(), "")]) {
        provider.become_(mood);
        assert_eq!(code(&gateway, &new_token), "");
        let refusal = try_token(&gateway, &unknown);
        assert_eq!(refusal["code"], "keys_unavailable");
        let after = refusal["retry_after_ms"].as_u64().expect("a time");
        assert!((10_000..20_000).contains(&after), "{after}");
    }
    reload(&gateway, &config);
    assert_eq!(code(&gateway, &new_token), "");
    // The tag is sent along when the set has become stale, and 304 leaves it as it is.
    provider.become_(Mood::Body(String::new(), "ETag: \"v1\"\r\n"));
    until("a conditional request", || {
        assert_eq!(code(&gateway, &new_token), "");
        let requests = provider.requests.lock().unwrap();
        requests.last().is_some_and(|head| head.contains("if-none-match: \"v1\""))
    });
    assert_eq!(code(&gateway, &new_token), "");
}

#[test]
fn a_set_that_is_asked_for_over_tls_comes_over_tls() {
    let signer = Signer::new(Algorithm::ES256).named("a");
    let authority = Authority::new();
    let issued = authority.issue("127.0.0.1");
    let good = || Mood::Body(set(&[&signer]), "");
    let plain = Provider::start(good());
    let (target, elsewhere) = (Provider::secure(good(), &issued), Provider::start(good()));
    let start = |provider: &Provider| {
        let folder = Folder::new();
        let roots = folder.write("roots.pem", &authority.pem);
        Gateway::start_with(folder, &provider.config(), |command| {
            command.env("SSL_CERT_FILE", roots);
        })
    };
    for (from, to, expected) in [
        (Provider::secure(Mood::Redirect(target.url()), &issued), &target, ""),
        (Provider::start(Mood::Redirect(elsewhere.url())), &elsewhere, ""),
        (Provider::secure(Mood::Redirect(plain.url()), &issued), &plain, "keys_unavailable"),
    ] {
        let gateway = start(&from);
        assert_eq!(code(&gateway, &signer.token("ada")), expected, "{}", gateway.log());
        assert_eq!((from.count(), to.count()), (1, usize::from(expected.is_empty())));
    }
}

#[test]
fn a_set_that_was_never_there_refuses_for_now() {
    let signer = Signer::new(Algorithm::EdDSA).named("a");
    for mood in [
        Mood::Away,
        Mood::Slow,
        Mood::Endless,
        Mood::Status(404),
        Mood::Body("[]".into(), ""),
        Mood::Body(format!("{{\"keys\":[{}", "[".repeat(100_000)), ""),
    ] {
        let provider = Provider::start(mood);
        let own = "a-secret-of-forty-bytes-for-these-tests!";
        let config = format!("[[auth.key]]\nsecret = \"{own}\"\n{}", provider.config());
        let gateway = Gateway::start(&config);
        let refusal = try_token(&gateway, &signer.token("ada"));
        assert_eq!(refusal["code"], "keys_unavailable");
        let after = refusal["retry_after_ms"].as_u64().expect("a time");
        assert!((10_000..20_000).contains(&after), "{after}");
        // Tokens of other keys do not wait for it.
        let other = Signer::secret(Algorithm::HS256, own).token("ada");
        assert_eq!(code(&gateway, &other), "");
        for _ in 0..20 {
            assert_eq!(code(&gateway, &signer.token("ada")), "keys_unavailable");
        }
        assert_eq!(provider.count(), 1, "it is left alone for a while");
    }
}
