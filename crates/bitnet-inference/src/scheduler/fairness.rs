//! How much work was done for each tenant, so that the one that had least goes next.
//!
//! A tenant that comes back is not paid for the time in which it wanted nothing: it starts where the least served of
//! the active ones stands. With nobody active all accounts are closed.
//!
//! Source: the virtual token counter of "Fairness in Serving Large Language Models" (Sheng et al. 2024).

use std::collections::HashMap;

use crate::terms::TenantId;

/// What a prompt token counts: it is computed beside many others.
const PROMPT_WEIGHT: u64 = 1;

/// What a drawn token counts: its row reads the whole model with few others. The paper's ratio, as in price lists.
const DRAWN_WEIGHT: u64 = 2;

#[derive(Debug, Clone, Copy, Default)]
struct Account {
    service: u64,    // weighted tokens
    n_active: usize, // requests waiting or running
}

/// The accounts of all tenants that lately had requests.
#[derive(Debug, Default)]
pub struct Fairness {
    accounts: HashMap<TenantId, Account>,
}

impl Fairness {
    /// A request of `tenant` came.
    pub fn arrive(&mut self, tenant: TenantId) {
        let floor = self.least_active();
        let account = self.accounts.entry(tenant).or_default();
        if account.n_active == 0 {
            account.service = account.service.max(floor.unwrap_or(0));
        }
        account.n_active += 1;
    }

    /// A request of `tenant` ended.
    pub fn leave(&mut self, tenant: TenantId) {
        let account = self.accounts.get_mut(&tenant);
        let account = account.expect("it arrived");
        account.n_active -= 1;
        if account.n_active > 0 {
            return;
        }
        // An inactive account below the floor would be raised to it: it says nothing.
        match self.least_active() {
            None => self.accounts.clear(),
            Some(floor) => self
                .accounts
                .retain(|_, account| account.n_active > 0 || account.service > floor),
        }
    }

    /// Work was done for a request of `tenant`.
    pub fn charge(&mut self, tenant: TenantId, n_prompt: usize, n_drawn: usize) {
        if let Some(account) = self.accounts.get_mut(&tenant) {
            account.service += PROMPT_WEIGHT * n_prompt as u64 + DRAWN_WEIGHT * n_drawn as u64;
        }
    }

    /// What was done for an active `tenant`.
    pub fn service(&self, tenant: TenantId) -> u64 {
        self.accounts.get(&tenant).map_or(0, |a| a.service)
    }

    fn least_active(&self) -> Option<u64> {
        let active = self.accounts.values().filter(|a| a.n_active > 0);
        active.map(|account| account.service).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: TenantId = TenantId(1);
    const B: TenantId = TenantId(2);
    const C: TenantId = TenantId(3);

    #[test]
    fn drawn_tokens_count_twice() {
        let mut fairness = Fairness::default();
        fairness.arrive(A);
        fairness.charge(A, 10, 3);
        assert_eq!(fairness.service(A), 16);
    }

    #[test]
    fn nobody_saves_up_service_by_staying_away() {
        let mut fairness = Fairness::default();
        fairness.arrive(A);
        fairness.arrive(B);
        fairness.charge(A, 1000, 0);
        fairness.charge(B, 600, 0);
        fairness.arrive(C);
        assert_eq!(fairness.service(C), 600);
        // Nor does anybody lose a debt by leaving for a moment.
        fairness.leave(A);
        fairness.arrive(A);
        assert_eq!(fairness.service(A), 1000);
    }

    #[test]
    fn accounts_that_say_nothing_are_closed() {
        let mut fairness = Fairness::default();
        for tenant in [A, B, C] {
            fairness.arrive(tenant);
        }
        fairness.charge(A, 1, 0);
        fairness.charge(B, 5, 0);
        fairness.charge(C, 3, 0);
        fairness.leave(B);
        assert_eq!(fairness.accounts.len(), 3, "it is ahead of the others");
        fairness.charge(A, 9, 0);
        fairness.charge(C, 9, 0);
        fairness.leave(C);
        assert_eq!(fairness.accounts.len(), 2, "the others passed it");
        fairness.leave(A);
        assert!(fairness.accounts.is_empty());
    }
}
