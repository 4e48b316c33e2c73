//! Who goes before whom, and how waiting makes up for priority.

use std::time::Duration;

use crate::terms::Terms;

/// How long a request waits for each step of priority that others are ahead of it, before it goes first: long enough
/// for a few answers on a processor, short enough that a whole scale of ten priorities is through in a minute or two.
pub const AGEING: Duration = Duration::from_secs(10);

/// The priorities that count; others count as the nearest of these. Bounded, so that what waits for the highest
/// distance is still served within the hour.
pub const PRIORITIES: std::ops::RangeInclusive<i32> = -100..=100;

/// The priority that a request's terms come to.
pub fn priority(terms: &Terms) -> i32 {
    terms.priority.clamp(*PRIORITIES.start(), *PRIORITIES.end())
}

/// A time, moved by what a priority is worth: of two the earlier goes first.
pub fn standing(since: Duration, priority: i32) -> i128 {
    since.as_nanos() as i128 + i128::from(priority) * AGEING.as_nanos() as i128
}

/// The order of those that have or had a place: lower ranks keep theirs at the cost of higher ones.
///
/// It is given once and never changes, and no two are alike. So whoever has the lowest takes what it needs and is never
/// disturbed, two can never take each other's blocks in turns, and because time goes on while a rank stands still,
/// everybody comes to be the lowest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    standing: i128, // of its class when it first got a place
    number: u64,    // of places given, for those of the same standing
}

impl Rank {
    /// The rank of whoever gets place number `number` while its class has this [`standing`].
    pub fn new(standing: i128, number: u64) -> Rank {
        Rank { standing, number }
    }
}
