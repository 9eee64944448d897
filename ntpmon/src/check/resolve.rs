//! From a name to its addresses, by this host's resolver. It blocks, for as long as it likes, so
//! only so many names are looked up at once.

use std::{
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    sync::Arc,
};

use tokio::{sync::Semaphore, task::spawn_blocking};

use super::{Failure, Family, Target};

/// Names that are looked up at once.
pub const AT_ONCE: usize = 8;
/// Addresses of a name that are asked; more are left out, and that is said.
pub const MOST_ADDRESSES: usize = 16;

/// What a name came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// Each once, in an order that is the same as long as they are.
    pub addresses: Vec<SocketAddr>,
    /// Addresses beyond [`MOST_ADDRESSES`].
    pub left_out: usize,
}

/// The addresses of a target.
///
/// # Errors
/// When there are none.
pub async fn resolve(
    target: &Target,
    family: Family,
    lookups: &Arc<Semaphore>,
) -> Result<Resolved, Failure> {
    let failed = |why: String| Failure::Unresolved {
        name: target.host().to_owned(),
        why,
    };
    let found = match target.host().parse::<IpAddr>() {
        Ok(address) => vec![SocketAddr::new(address, target.port())],
        Err(_) => {
            let turn = Arc::clone(lookups).acquire_owned().await;
            let turn = turn.map_err(|error| failed(error.to_string()))?;
            let (host, port) = (target.host().to_owned(), target.port());
            let looked_up = spawn_blocking(move || {
                // It is the thread's until it comes back, whoever still waits for it.
                let _turn = turn;
                (host.as_str(), port).to_socket_addrs()
            });
            let found = looked_up.await.map_err(|error| failed(error.to_string()))?;
            found
                .map_err(|error| failed(plain(&error.to_string())))?
                .collect()
        }
    };
    let mut addresses: Vec<_> = found
        .into_iter()
        .filter(|address| family.has(address.ip()))
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    if addresses.is_empty() {
        return Err(failed(format!("it has none of {family}")));
    }
    let left_out = addresses.len().saturating_sub(MOST_ADDRESSES);
    addresses.truncate(MOST_ADDRESSES);
    Ok(Resolved {
        addresses,
        left_out,
    })
}

/// Without what the standard library says before it.
fn plain(error: &str) -> String {
    let said = error.strip_prefix("failed to lookup address information: ");
    said.unwrap_or(error).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn resolved(target: &str, family: Family) -> Result<Resolved, Failure> {
        let lookups = Arc::new(Semaphore::new(AT_ONCE));
        resolve(&target.parse().unwrap(), family, &lookups).await
    }

    #[tokio::test]
    async fn an_address_is_its_own_and_has_to_be_of_the_family() {
        let found = resolved("[::1]:1123", Family::Any).await.unwrap();
        assert_eq!(found.addresses, ["[::1]:1123".parse().unwrap()]);
        let error = resolved("192.0.2.1", Family::Ipv6).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "192.0.2.1 has no address: it has none of IPv6"
        );
    }

    #[tokio::test]
    async fn a_name_has_each_of_its_addresses_once() {
        let found = resolved("localhost", Family::Ipv4).await.unwrap();
        assert_eq!(found.addresses, ["127.0.0.1:123".parse().unwrap()]);
        let error = resolved("no-such-name.invalid", Family::Any)
            .await
            .unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("no-such-name.invalid has no address: ")
        );
    }
}
