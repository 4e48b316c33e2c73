//! Which connections have waited longest for a request: when every place is taken, they make room for new ones.
//!
//! Without it, one client that opens connections and says nothing would shut everybody else out, probes included. HTTP
//! lets a server close a connection that is between two requests; one that is being answered keeps its place.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// The connections that are between two requests.
#[derive(Debug, Clone, Default)]
pub struct Seats(Arc<Mutex<Waiting>>);

#[derive(Debug, Default)]
struct Waiting {
    last: u64,
    by_turn: BTreeMap<u64, Arc<Notify>>, // the first has waited longest
}

/// One connection. It waits from the beginning on, but for the time of each [`AtWork`].
#[derive(Debug)]
pub struct Seat {
    seats: Seats,
    told: Arc<Notify>,
    state: Mutex<SeatState>, // taken before that of the seats
}

#[derive(Debug)]
struct SeatState {
    at_work: usize,
    turn: u64,
}

/// Something is being done for a connection: it stays.
#[derive(Debug)]
pub struct AtWork(Arc<Seat>);

impl Seats {
    /// A connection that has just come.
    pub fn enter(&self) -> Arc<Seat> {
        let told = Arc::new(Notify::new());
        Arc::new(Seat {
            state: Mutex::new(SeatState {
                at_work: 0,
                turn: self.wait(&told),
            }),
            seats: self.clone(),
            told,
        })
    }

    /// Tells the connection that has waited longest to end, if any waits.
    pub fn make_room(&self) {
        if let Some((_, told)) = self.lock().by_turn.pop_first() {
            told.notify_one();
        }
    }

    fn wait(&self, told: &Arc<Notify>) -> u64 {
        let mut waiting = self.lock();
        waiting.last += 1;
        let turn = waiting.last;
        waiting.by_turn.insert(turn, told.clone());
        turn
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Changed by single steps: a panic elsewhere leaves it right.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// From now on something is done for it.
    pub fn work(self: &Arc<Seat>) -> AtWork {
        let mut state = self.state();
        state.at_work += 1;
        self.seats.lock().by_turn.remove(&state.turn);
        AtWork(self.clone())
    }

    /// Resolves when it is to make room, and nothing is being done for it.
    pub async fn is_to_leave(&self) {
        loop {
            self.told.notified().await;
            if self.state().at_work == 0 {
                return;
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, SeatState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        let seat = &self.0;
        let mut state = seat.state();
        state.at_work -= 1;
        if state.at_work == 0 {
            state.turn = seat.seats.wait(&seat.told);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let turn = self.state().turn;
        self.seats.lock().by_turn.remove(&turn);
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    fn is_told(seat: &Seat) -> bool {
        let leaves = pin!(seat.is_to_leave());
        leaves
            .poll(&mut Context::from_waker(Waker::noop()))
            .is_ready()
    }

    #[test]
    fn who_has_waited_longest_makes_room_and_who_is_at_work_never() {
        let seats = Seats::default();
        let (first, second, third) = (seats.enter(), seats.enter(), seats.enter());
        let work = first.work();
        let more = first.work();
        seats.make_room();
        assert!(is_told(&second) && !is_told(&first) && !is_told(&third));
        drop(work);
        drop(second);
        // Its wait begins with the end of its work.
        drop(more);
        seats.make_room();
        assert!(is_told(&third) && !is_told(&first));
        let work = first.work();
        seats.make_room();
        assert!(!is_told(&first));
        drop((work, third));
        seats.make_room();
        assert!(is_told(&first));
        drop(first);
        assert!(seats.lock().by_turn.is_empty());
    }

    #[test]
    fn one_that_gets_a_request_when_it_is_told_stays() {
        let seats = Seats::default();
        let seat = seats.enter();
        seats.make_room();
        let work = seat.work();
        assert!(!is_told(&seat));
        drop(work);
        assert!(!is_told(&seat), "it was told before its request");
        seats.make_room();
        assert!(is_told(&seat));
    }
}
