//! How many connections each address has, so that no single one takes every place.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The addresses that have connections now; an address without one is forgotten.
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

    /// A place for one more connection of `address`, unless it has as many as it may.
    pub fn enter(&self, address: IpAddr) -> Option<PeerPlace> {
        let address = address.to_canonical();
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
}
