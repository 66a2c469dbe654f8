//! How safe the way to a deployment is, as its URI says. Connects to nothing.

use std::net::IpAddr;

use mongodb::options::{ClientOptions, ServerAddress, Tls};

use super::unusable_uri;
use crate::config::Secret;
use crate::error::Result;

/// The way to a deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transport {
    /// TLS is on.
    pub encrypted: bool,
    /// The server's certificate is checked.
    pub verified: bool,
    /// The first of its servers that is not this machine.
    pub remote: Option<String>,
}

/// Reads it from the URI.
pub async fn transport(uri: &Secret) -> Result<Transport> {
    let options = ClientOptions::parse(uri.expose()).await.map_err(unusable_uri)?;
    let tls = match &options.tls {
        Some(Tls::Enabled(tls)) => Some(tls),
        _ => None,
    };
    let unverified = tls.is_some_and(|tls| tls.allow_invalid_certificates == Some(true));
    Ok(Transport {
        encrypted: tls.is_some(),
        verified: tls.is_some() && !unverified,
        remote: options.hosts.iter().find(|host| !is_this_machine(host)).map(ToString::to_string),
    })
}

fn is_this_machine(address: &ServerAddress) -> bool {
    match address {
        ServerAddress::Tcp { host, .. } => {
            let ip = host.trim_matches(['[', ']']).parse::<IpAddr>();
            host.eq_ignore_ascii_case("localhost") || ip.is_ok_and(|ip| ip.is_loopback())
        }
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn of(uri: &str) -> Transport {
        transport(&Secret::new(uri)).await.unwrap()
    }

    #[tokio::test]
    async fn tls_its_checks_and_other_machines_are_seen_in_the_uri() {
        let plain = of("mongodb://127.0.0.1:1,localhost,[::1]:2/").await;
        assert_eq!(plain, Transport { encrypted: false, verified: false, remote: None });
        assert_eq!(of("mongodb://localhost,db.example:1/").await.remote.as_deref(), Some("db.example:1"));
        let safe = of("mongodb://db.example/?tls=true").await;
        assert!(safe.encrypted && safe.verified);
        for option in ["tlsInsecure", "tlsAllowInvalidCertificates"] {
            assert!(!of(&format!("mongodb://db.example/?tls=true&{option}=true")).await.verified, "{option}");
        }
    }
}
