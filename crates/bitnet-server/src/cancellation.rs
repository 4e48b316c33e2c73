//! Requests under way by their names, so that whoever sent one, or an administrator, can end it.
//!
//! Clients choose names and two of them may choose one, so a request is found by its name and its sender together. What
//! ends it is giving its tickets back, as when its client leaves: its place and its blocks are free within a step, and
//! its reader finds its channel closed.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::engine_thread::Ticket;
use crate::error::{ApiError, ErrorCode};

/// What a request has in the engine's queue, until it ends or is cancelled. Its parts follow one another, as the
/// batches of `/v1/embeddings` do: there are the tickets of one at a time.
#[derive(Debug, Default)]
pub struct Hold(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    is_cancelled: bool,
    tickets: Vec<Ticket>,
}

impl Hold {
    /// Keeps `tickets` until [`Hold::release`].
    ///
    /// # Errors
    /// [`ErrorCode::RequestCancelled`] when the request was cancelled already; they are given back then.
    pub fn keep(&self, tickets: Vec<Ticket>) -> Result<(), ApiError> {
        let mut held = self.held();
        if held.is_cancelled {
            return Err(cancelled());
        }
        held.tickets = tickets;
        Ok(())
    }

    /// Gives the tickets back: what they stand for ends, if it has not.
    pub fn release(&self) {
        let tickets = std::mem::take(&mut self.held().tickets);
        drop(tickets); // without the lock
    }

    /// [`Hold::release`] because the client left: the engine's thread counts where the request was.
    pub fn leave(&self) {
        let mut tickets = std::mem::take(&mut self.held().tickets).into_iter();
        if let Some(first) = tickets.next() {
            first.leave();
        }
    }

    /// Ends the request, whatever it waits for, and counts it as one whose client left.
    pub fn cancel(&self) {
        self.held().is_cancelled = true;
        self.leave();
    }

    /// Whether that was done.
    pub fn is_cancelled(&self) -> bool {
        self.held().is_cancelled
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a client is told whose request was cancelled.
pub fn cancelled() -> ApiError {
    ApiError::new(ErrorCode::RequestCancelled, "the request was cancelled")
}

/// The requests under way. Clones are one list.
#[derive(Debug, Clone, Default)]
pub struct RequestsUnderWay {
    entries: Arc<Mutex<HashMap<String, Vec<Entry>>>>,
}

#[derive(Debug)]
struct Entry {
    sender: String,
    hold: Arc<Hold>,
}

/// A place in the list; dropping it leaves the list.
#[derive(Debug)]
pub struct Listed {
    list: RequestsUnderWay,
    name: String,
    hold: Arc<Hold>,
}

/// Whose requests may be ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CancelScope<'a> {
    /// Those of one sender, as the access log names it.
    Of(&'a str),
    /// Those of the only one who has sent requests by this name: somebody else's are never met by accident.
    OfAnybody,
}

impl RequestsUnderWay {
    /// Puts a request in the list.
    pub fn enter(&self, name: &str, sender: &str, hold: &Arc<Hold>) -> Listed {
        let entry = Entry {
            sender: sender.to_owned(),
            hold: hold.clone(),
        };
        let mut entries = self.entries();
        entries.entry(name.to_owned()).or_default().push(entry);
        Listed {
            list: self.clone(),
            name: name.to_owned(),
            hold: hold.clone(),
        }
    }

    /// Ends the requests by this name that are in `scope`; returns how many there were.
    ///
    /// # Errors
    /// [`ErrorCode::RequestNotFound`], the same for one of somebody else; [`ErrorCode::MissingField`] when several have
    /// sent requests by this name and nobody says whose is meant.
    pub fn cancel(&self, name: &str, scope: CancelScope<'_>) -> Result<usize, ApiError> {
        let holds: Vec<Arc<Hold>> = {
            let entries = self.entries();
            let entries = entries.get(name).map_or(&[][..], Vec::as_slice);
            let senders: BTreeSet<&str> = entries.iter().map(|entry| &*entry.sender).collect();
            if scope == CancelScope::OfAnybody && senders.len() > 1 {
                return Err(ambiguous(&senders));
            }
            let meant = entries.iter().filter(|entry| match scope {
                CancelScope::Of(sender) => entry.sender == sender,
                CancelScope::OfAnybody => true,
            });
            meant.map(|entry| entry.hold.clone()).collect()
        };
        if holds.is_empty() {
            let message = "no request by this name is under way";
            return Err(ApiError::new(ErrorCode::RequestNotFound, message));
        }
        holds.iter().for_each(|hold| hold.cancel());
        Ok(holds.len())
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<String, Vec<Entry>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn ambiguous(senders: &BTreeSet<&str>) -> ApiError {
    let senders: Vec<&str> = senders.iter().copied().collect();
    let message = format!(
        "several have sent requests by this name: say whose is meant, of {}",
        senders.join(", ")
    );
    ApiError::about("who", ErrorCode::MissingField, message)
        .with_hint("add the parameter that param names: ?who=NAME")
}

impl Drop for Listed {
    fn drop(&mut self) {
        let mut entries = self.list.entries();
        if let Some(named) = entries.get_mut(&self.name) {
            named.retain(|entry| !Arc::ptr_eq(&entry.hold, &self.hold));
            if named.is_empty() {
                entries.remove(&self.name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_of_one_name_are_told_apart_by_their_senders() {
        let list = RequestsUnderWay::default();
        let holds: [Arc<Hold>; 3] = Default::default();
        let listed = ["a", "b", "b"].map(|sender| sender.to_owned());
        let listed: Vec<Listed> = listed
            .iter()
            .zip(&holds)
            .map(|(sender, hold)| list.enter("same", sender, hold))
            .collect();
        let code = |scope| list.cancel("same", scope).unwrap_err().code;
        assert_eq!(code(CancelScope::OfAnybody), ErrorCode::MissingField);
        assert_eq!(code(CancelScope::Of("c")), ErrorCode::RequestNotFound);
        assert!(holds.iter().all(|hold| !hold.is_cancelled()));

        assert_eq!(list.cancel("same", CancelScope::Of("b")).unwrap(), 2);
        assert_eq!(
            holds.each_ref().map(|hold| hold.is_cancelled()),
            [false, true, true]
        );
        drop(listed);
        assert!(list.entries().is_empty());
        assert_eq!(code(CancelScope::Of("b")), ErrorCode::RequestNotFound);
    }

    #[test]
    fn a_request_that_was_cancelled_keeps_nothing() {
        let hold = Hold::default();
        hold.keep(Vec::new()).unwrap();
        hold.cancel();
        let refused = hold.keep(Vec::new()).unwrap_err();
        assert_eq!(refused.code, ErrorCode::RequestCancelled);
    }
}
