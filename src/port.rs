//! Where a server listens, and how connections begin there.

use std::net::{SocketAddr, TcpListener};

use crate::error::Error;
use crate::shard::ring;
#[cfg(feature = "tls")]
use crate::tls::Tls;

/// An address to listen on, and how connections begin there; see
/// [`Server::listen_on`](crate::Server::listen_on).
///
/// ```
/// let mut port = corecast::Port::from(std::net::SocketAddr::from(([127, 0, 0, 1], 4000)));
/// port.proxy_protocol = true;
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Port {
    /// The address. With port 0 the system chooses one.
    pub address: SocketAddr,
    /// Connections begin with a header of the PROXY protocol, version 2, which says whose they are.
    /// Default false. Only [trusted proxies](crate::Options::trusted_proxies) may connect then;
    /// others, and those that begin otherwise, are closed without a word.
    pub proxy_protocol: bool,
    /// Connections speak TLS, behind that header if there is one. Default none.
    #[cfg(feature = "tls")]
    pub tls: Option<Tls>,
}

impl From<SocketAddr> for Port {
    fn from(address: SocketAddr) -> Port {
        Port {
            address,
            proxy_protocol: false,
            #[cfg(feature = "tls")]
            tls: None,
        }
    }
}

impl Port {
    /// Whether connections speak TLS.
    #[cfg(feature = "tls")]
    pub(crate) fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Whether connections speak TLS.
    #[cfg(not(feature = "tls"))]
    pub(crate) fn is_tls(&self) -> bool {
        false
    }
}

/// One listener per shard and address; the same port for all shards also where the system chose.
pub(crate) fn bind_all(
    ports: &[Port],
    shards: usize,
    backlog: u32,
) -> Result<(Vec<Vec<TcpListener>>, Vec<SocketAddr>), Error> {
    let mut per_shard: Vec<Vec<TcpListener>> = (0..shards).map(|_| Vec::new()).collect();
    let mut bound = Vec::with_capacity(ports.len());
    for port in ports {
        let mut address = port.address;
        for listeners in &mut per_shard {
            let listener =
                ring::bind(address, backlog).map_err(|source| Error::Listen { address, source })?;
            address = listener.local_addr()?;
            listeners.push(listener);
        }
        bound.push(address);
    }
    Ok((per_shard, bound))
}
