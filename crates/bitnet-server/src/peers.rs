//! Whom an address stands for, and how many connections each of them has, so that nobody takes every place.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Whom an address stands for, wherever strangers are counted by their addresses: a customer of an IPv6 provider has
/// 2^64 of them, and all of those are one.
pub fn peer_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) if !address.is_loopback() => {
            IpAddr::V6((u128::from(address) >> 64 << 64).into())
        }
        address => address,
    }
}

/// The peers that have connections now; one without any is forgotten.
#[derive(Debug, Clone)]
pub struct Peers {
    limit: usize, // 0: none
    counts: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// The place of one connection; dropping it gives it back.
#[derive(Debug)]
pub struct PeerPlace {
    address: IpAddr,
    counts: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Peers {
    /// Nobody yet; 0 is no limit.
    pub fn new(limit: usize) -> Peers {
        Peers {
            limit,
            counts: Arc::default(),
        }
    }

    /// A place for one more connection of whom `address` stands for, unless there are as many as there may be.
    pub fn enter(&self, address: IpAddr) -> Option<PeerPlace> {
        let address = peer_of(address);
        let mut counts = lock(&self.counts);
        let count = counts.entry(address).or_default();
        if self.limit > 0 && *count >= self.limit {
            return None;
        }
        *count += 1;
        Some(PeerPlace {
            address,
            counts: self.counts.clone(),
        })
    }
}

impl Drop for PeerPlace {
    fn drop(&mut self) {
        let mut counts = lock(&self.counts);
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

/// Counts are changed by single steps, so a panic elsewhere leaves them right.
fn lock(counts: &Mutex<HashMap<IpAddr, usize>>) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_its_limit_and_gets_its_places_back() {
        let peers = Peers::new(2);
        let address: IpAddr = "10.0.0.1".parse().unwrap();
        let mapped: IpAddr = "::ffff:10.0.0.1".parse().unwrap();
        let (first, second) = (peers.enter(address), peers.enter(mapped));
        assert!(first.is_some() && second.is_some());
        assert!(peers.enter(address).is_none());
        assert!(peers.enter("10.0.0.2".parse().unwrap()).is_some());
        drop(second);
        assert!(peers.enter(address).is_some());
        drop(first);
        assert!(lock(&peers.counts).is_empty());
    }

    #[test]
    fn a_network_of_64_bits_is_one_peer_and_its_neighbour_another() {
        let peers = Peers::new(1);
        let enter = |address: &str| peers.enter(address.parse().unwrap());
        let first = enter("2001:db8:0:1::1");
        assert!(first.is_some());
        assert!(enter("2001:db8:0:1:ffff::2").is_none());
        assert!(enter("2001:db8:0:2::1").is_some());
        assert!(enter("::1").is_some());
        drop(first);
        assert!(enter("2001:db8:0:1:ffff::2").is_some());
    }
}
