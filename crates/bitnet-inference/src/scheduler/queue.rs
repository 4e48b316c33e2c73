//! Who waits for a first place, and who of them is next.
//!
//! Priorities are classes. The class goes first that has the lowest priority, or has been passed over for so long that
//! its waiting makes up for that ([`AGEING`](super::AGEING) for each step); within the class the tenant for whom least
//! was done, within the tenant who is due first. Ageing lifts a class and not its requests: otherwise a tenant that
//! queues a thousand at once would age its way past everybody's fair share.

use std::collections::BTreeMap;
use std::time::Duration;

use super::fairness::Fairness;
use super::rank::{priority, standing};
use crate::sequence::Sequence;

/// The requests that never had a place.
#[derive(Default)]
pub struct Queue {
    waiting: Vec<Sequence>, // in the order of arrival
    classes: BTreeMap<i32, Class>,
}

/// The waiting requests of one priority, at least one.
struct Class {
    n_waiting: usize,
    since: Duration, // when one of them last got a place, else when the first came
}

impl Queue {
    /// Adds a request that comes at `now`.
    pub fn push(&mut self, sequence: Sequence, now: Duration) {
        let class = self.classes.entry(priority(sequence.terms()));
        let class = class.or_insert(Class {
            n_waiting: 0,
            since: now,
        });
        class.n_waiting += 1;
        self.waiting.push(sequence);
    }

    /// Index of the request that is next, and the standing of its class.
    pub fn next(&self, fairness: &Fairness) -> Option<(usize, i128)> {
        let classes = self.classes.iter();
        let (class, standing) = classes
            .map(|(&priority, class)| (priority, standing(class.since, priority)))
            .min_by_key(|&(_, standing)| standing)?;
        let numbered = self.waiting.iter().enumerate();
        let of_class = numbered.filter(|(_, sequence)| priority(sequence.terms()) == class);
        let (_, first) = of_class
            .clone()
            .min_by_key(|(_, sequence)| fairness.service(sequence.terms().tenant))?;
        let tenant = first.terms().tenant;
        let of_tenant = of_class.filter(|(_, sequence)| sequence.terms().tenant == tenant);
        let (index, _) = of_tenant.min_by_key(|(_, sequence)| sequence.due())?;
        Some((index, standing))
    }

    /// The request at `index`.
    pub fn get_mut(&mut self, index: usize) -> &mut Sequence {
        &mut self.waiting[index]
    }

    /// Takes out the request at `index`, which gets a place at `now`.
    pub fn take(&mut self, index: usize, now: Duration) -> Sequence {
        let sequence = self.remove(index);
        if let Some(class) = self.classes.get_mut(&priority(sequence.terms())) {
            class.since = now;
        }
        sequence
    }

    /// Takes out those for whom `leaves` holds.
    pub fn remove_if(&mut self, mut leaves: impl FnMut(&mut Sequence) -> bool) {
        let mut index = 0;
        while index < self.waiting.len() {
            if leaves(&mut self.waiting[index]) {
                self.remove(index);
            } else {
                index += 1;
            }
        }
    }

    /// Who waits, in the order of arrival.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Sequence> {
        self.waiting.iter()
    }

    fn remove(&mut self, index: usize) -> Sequence {
        let sequence = self.waiting.remove(index);
        let class = priority(sequence.terms());
        let left = self.classes.get_mut(&class).expect("it was counted");
        left.n_waiting -= 1;
        if left.n_waiting == 0 {
            self.classes.remove(&class);
        }
        sequence
    }
}
