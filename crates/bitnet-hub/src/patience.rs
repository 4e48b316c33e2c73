//! How long to try: waits that grow, what a server asks for, and an end.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use crate::error::HubError;

/// Why a request did not bring what it should.
#[derive(Debug)]
pub(crate) enum Fault {
    /// It may go away by itself.
    Passing {
        /// What it comes down to when it does not.
        error: HubError,
        /// How long the server asks to wait.
        asked: Option<Duration>,
    },
    /// Asking again would bring the same.
    Lasting(HubError),
}

impl Fault {
    /// One that may go away, where nobody said when.
    pub(crate) fn passing(error: HubError) -> Fault {
        Fault::Passing { error, asked: None }
    }
}

impl From<HubError> for Fault {
    fn from(error: HubError) -> Fault {
        Fault::Lasting(error)
    }
}

/// First wait; each further one is twice as long.
const FIRST: Duration = Duration::from_secs(1);
/// Longest wait that nobody asked for.
const LONGEST: Duration = Duration::from_secs(30);
/// Longest wait that a server may ask for: the Hub counts requests over five minutes.
const LONGEST_ASKED: Duration = Duration::from_secs(300);
/// Failures one after the other, with nothing gained in between: with the waits above, a minute without the network.
const IN_A_ROW: u32 = 7;
/// Connections in a row that nobody takes, before anybody has ever answered: what cannot be reached then is seldom back
/// within the minute, and somebody waits to hear of it.
const AT_FIRST: u32 = 3;
/// Failures of one file in all: a server that sends a little and hangs up could go on for ever.
const IN_ALL: u32 = 200;

/// How often a server is called that nobody has heard of yet, where nobody takes the connection. Whatever else fails is
/// tried as often either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tries {
    /// Once: whoever asks has something else to turn to.
    One,
    /// A few times, over some seconds.
    Few,
}

/// What is left of the patience with one file or one question.
#[derive(Debug)]
pub(crate) struct Patience {
    in_a_row: u32,
    in_all: u32,
    /// Most connections in a row that nobody takes.
    connections: u32,
}

impl Default for Patience {
    /// With a server that has answered before.
    fn default() -> Patience {
        Patience {
            in_a_row: 0,
            in_all: 0,
            connections: IN_A_ROW,
        }
    }
}

impl Patience {
    /// With a server that nobody has heard of yet.
    pub(crate) fn at_first(tries: Tries) -> Patience {
        Patience {
            connections: match tries {
                Tries::One => 1,
                Tries::Few => AT_FIRST,
            },
            ..Patience::default()
        }
    }

    /// Something was gained: failures are counted from the beginning.
    pub(crate) fn gained(&mut self) {
        self.in_a_row = 0;
    }

    /// How long to wait before the next attempt.
    ///
    /// # Errors
    /// The fault's own, when there is to be none.
    pub(crate) fn after(&mut self, fault: Fault) -> Result<Duration, HubError> {
        let (error, asked) = match fault {
            Fault::Lasting(error) => return Err(error),
            Fault::Passing { error, asked } => (error, asked),
        };
        self.in_a_row += 1;
        self.in_all += 1;
        let in_a_row = match error {
            HubError::NoConnection { .. } => self.connections,
            _ => IN_A_ROW,
        };
        if self.in_a_row >= in_a_row || self.in_all >= IN_ALL {
            return Err(error);
        }
        let grown = FIRST.saturating_mul(1 << (self.in_a_row - 1).min(16));
        // Up to a quarter more, so that those who failed together do not come back together.
        let more = RandomState::new().hash_one(self.in_all) % 256;
        let own = grown.min(LONGEST).mul_f64(1.0 + more as f64 / 1024.0);
        match asked {
            Some(asked) if asked > LONGEST_ASKED => match error {
                HubError::Status { host, status, .. } => Err(HubError::Busy {
                    host,
                    status,
                    wait: asked,
                }),
                error => Err(error),
            },
            Some(asked) => Ok(asked.max(FIRST)),
            None => Ok(own),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(asked: Option<u64>) -> Fault {
        Fault::Passing {
            error: HubError::Status {
                host: "h".into(),
                status: 429,
                what: "x".into(),
            },
            asked: asked.map(Duration::from_secs),
        }
    }

    #[test]
    fn waits_grow_and_end_and_begin_anew_after_a_gain() {
        let mut patience = Patience::default();
        let mut waits = Vec::new();
        while let Ok(wait) = patience.after(fault(None)) {
            waits.push(wait.as_secs_f64());
        }
        assert_eq!(waits.len() as u32, IN_A_ROW - 1);
        for (n, wait) in waits.iter().enumerate() {
            let least = f64::from(1 << n).min(30.0);
            assert!((least..=1.25 * least).contains(wait), "{waits:?}");
        }
        patience.gained();
        assert!(patience.after(fault(None)).unwrap() < Duration::from_secs(2));
    }

    #[test]
    fn a_server_that_never_answered_is_given_up_sooner_than_one_that_did() {
        let attempts = |mut patience: Patience| {
            let fault = || {
                Fault::passing(HubError::NoConnection {
                    host: "h".into(),
                    why: "x".into(),
                })
            };
            1 + std::iter::from_fn(|| patience.after(fault()).ok()).count() as u32
        };
        assert_eq!(attempts(Patience::at_first(Tries::One)), 1);
        assert_eq!(attempts(Patience::at_first(Tries::Few)), AT_FIRST);
        assert_eq!(attempts(Patience::default()), IN_A_ROW);
        // Whoever answers with trouble is there.
        let mut patience = Patience::at_first(Tries::One);
        assert!(patience.after(fault(None)).is_ok());
    }

    #[test]
    fn what_a_server_asks_for_is_kept_up_to_a_limit() {
        let mut patience = Patience::default();
        assert_eq!(
            patience.after(fault(Some(120))).unwrap(),
            Duration::from_secs(120)
        );
        assert_eq!(patience.after(fault(Some(0))).unwrap(), FIRST);
        let refused = patience.after(fault(Some(301))).unwrap_err();
        assert!(
            matches!(refused, HubError::Busy { status: 429, wait, .. } if wait.as_secs() == 301)
        );
    }

    #[test]
    fn small_gains_do_not_go_on_for_ever() {
        let mut patience = Patience::default();
        let mut attempts = 0;
        while patience.after(fault(None)).is_ok() {
            patience.gained();
            attempts += 1;
        }
        assert_eq!(attempts, IN_ALL - 1);
    }
}
