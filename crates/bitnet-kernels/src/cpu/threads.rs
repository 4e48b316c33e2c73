//! A pool of threads that share the ranges of one op: one barrier per op, no allocation, no queue.
//!
//! Decode issues some two hundred ops per token, a few microseconds apart, so workers spin for a moment before they
//! sleep. Ranges are handed out by a counter (a thread that the system interrupts does not hold up the others); which
//! thread computes a range never changes its result. Without threads (one CPU, WebAssembly) ops run in place.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

#[cfg(not(target_family = "wasm"))]
pub use native::Pool;
#[cfg(target_family = "wasm")]
pub use single::Pool;

impl Pool {
    /// Calls `work(range, thread)` for ranges of at most `grain` items that cover `0..n`, on all threads; returns when
    /// all are done. `thread < self.threads()` is a number that no other running call has.
    ///
    /// # Panics
    /// With the panic of `work`, after all threads have stopped.
    pub fn for_ranges(&self, n: usize, grain: usize, work: impl Fn(Range<usize>, usize) + Sync) {
        let grain = grain.max(1);
        if n == 0 {
            return;
        }
        if self.threads() == 1 || n <= grain {
            return work(0..n, 0);
        }
        let next = AtomicUsize::new(0);
        self.on_all_threads(&|thread| {
            loop {
                // Relaxed: the counter only hands out numbers; results are published by the barrier.
                let start = next.fetch_add(grain, Ordering::Relaxed);
                if start >= n {
                    break;
                }
                work(start..n.min(start + grain), thread);
            }
        });
    }

    /// A grain that gives every thread a few ranges, so that they end together: none shorter than `least` items.
    pub fn grain(&self, n: usize, least: usize) -> usize {
        // Eight ranges a thread keep the idle tail below a tenth, and are still long enough to stream.
        n.div_ceil(8 * self.threads()).max(least)
    }
}

#[cfg(target_family = "wasm")]
mod single {
    use crate::error::KernelError;

    /// One thread: the caller's.
    #[derive(Debug)]
    pub struct Pool;

    impl Pool {
        /// A pool of one thread, whatever is asked for.
        pub fn new(_threads: usize) -> Result<Pool, KernelError> {
            Ok(Pool)
        }

        /// Threads that take part in an op.
        pub fn threads(&self) -> usize {
            1
        }

        pub(super) fn on_all_threads(&self, job: &(dyn Fn(usize) + Sync)) {
            job(0);
        }
    }
}

#[cfg(not(target_family = "wasm"))]
mod native {
    use std::any::Any;
    use std::cell::UnsafeCell;
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
    use std::thread::JoinHandle;
    use std::time::{Duration, Instant};

    use crate::error::KernelError;

    /// Turns of the waiting loop before a thread gives its CPU away: some 20 to 50 microseconds, longer than the gap
    /// between two ops of a token and shorter than the gap between two tokens of an idle server.
    const SPINS: u32 = 4000;

    /// How long the caller of an op stays awake for the others, yielding: threads that have a CPU each end within that of one
    /// another, and waking takes as long as an op of a small model.
    const YIELDS: Duration = Duration::from_micros(500);

    /// Threads that wait for ops. The calling thread is number 0 and works too.
    pub struct Pool {
        shared: Arc<Shared>,
        workers: Vec<JoinHandle<()>>,
        caller: Mutex<()>, // one op at a time
    }

    /// A job whose borrow has been extended: it is only called between the two barriers of `on_all_threads`.
    type Job = *const (dyn Fn(usize) + Sync);

    struct Shared {
        job: UnsafeCell<Option<Job>>, // written by the caller before `epoch` grows, None: stop
        epoch: AtomicUsize,           // number of the current op
        running: AtomicUsize,         // workers that have not finished the current op
        sleepers: Mutex<usize>,       // workers asleep on `wake`
        wake: Condvar,
        has_sleepers: AtomicBool,  // whether `sleepers` may be above zero
        caller_sleeps: AtomicBool, // whether the caller may be asleep on `finished`, with `ends`
        ends: Mutex<()>,
        finished: Condvar,
        panic: Mutex<Option<Box<dyn Any + Send>>>,
    }

    // SAFETY: `job` is written only while no worker reads it (all have finished the op before), and the write is
    // published by the release on `epoch`. The job itself is Sync.
    unsafe impl Sync for Shared {}
    // SAFETY: the pointer in `job` is to a Sync value and dead outside of an op.
    unsafe impl Send for Shared {}

    fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        // Nothing panics while it holds one of our locks, and none protects a broken state.
        mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }

    impl Pool {
        /// A pool of `threads` threads (at least one), the caller's included.
        ///
        /// # Errors
        /// [`KernelError::Thread`] if the system refuses one.
        pub fn new(threads: usize) -> Result<Pool, KernelError> {
            let shared = Arc::new(Shared {
                job: UnsafeCell::new(None),
                epoch: AtomicUsize::new(0),
                running: AtomicUsize::new(0),
                sleepers: Mutex::new(0),
                wake: Condvar::new(),
                has_sleepers: AtomicBool::new(false),
                caller_sleeps: AtomicBool::new(false),
                ends: Mutex::new(()),
                finished: Condvar::new(),
                panic: Mutex::new(None),
            });
            let mut pool = Pool {
                shared,
                workers: Vec::new(),
                caller: Mutex::new(()),
            };
            for index in 1..threads {
                let shared = Arc::clone(&pool.shared);
                let worker = std::thread::Builder::new()
                    .name(format!("bitnet-{index}"))
                    .spawn(move || shared.work(index))
                    .map_err(|source| KernelError::Thread { index, source })?;
                pool.workers.push(worker);
            }
            Ok(pool)
        }

        /// Threads that take part in an op.
        pub fn threads(&self) -> usize {
            self.workers.len() + 1
        }

        /// Calls `job(thread)` once on every thread and waits for all.
        pub(super) fn on_all_threads(&self, job: &(dyn Fn(usize) + Sync)) {
            let _one_at_a_time = lock(&self.caller);
            let shared = &*self.shared;
            // SAFETY: only the lifetime changes. Workers call the job only before they leave `running`, and this
            // function does not return or unwind before all have.
            let job_for_workers: Job =
                unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), Job>(job) };
            shared.start(Some(job_for_workers), self.workers.len());
            let mine = catch_unwind(AssertUnwindSafe(|| job(0)));
            shared.wait_for_workers();
            if let Err(panic) = mine {
                lock(&shared.panic).take();
                resume_unwind(panic);
            }
            if let Some(panic) = lock(&shared.panic).take() {
                resume_unwind(panic);
            }
        }
    }

    impl Drop for Pool {
        fn drop(&mut self) {
            self.shared.start(None, 0);
            for worker in self.workers.drain(..) {
                // A worker catches the panics of jobs and has none of its own.
                let _ = worker.join();
            }
        }
    }

    impl Shared {
        /// Publishes a job (`None`: the end) to the workers and wakes those that sleep.
        fn start(&self, job: Option<Job>, workers: usize) {
            // SAFETY: every worker has finished the op before and does not look at `job` until `epoch` changes.
            unsafe { *self.job.get() = job };
            self.running.store(workers, Ordering::Relaxed);
            // SeqCst against `has_sleepers`: either the worker that goes to sleep sees the new epoch, or we see it.
            self.epoch.fetch_add(1, Ordering::SeqCst);
            if self.has_sleepers.load(Ordering::SeqCst) {
                let sleepers = lock(&self.sleepers);
                if *sleepers > 0 {
                    self.wake.notify_all();
                }
            }
        }

        /// Waits until every worker has finished the op: spinning, yielding, asleep at last. A worker that has lost its CPU
        /// to another thread is then not waited for at the cost of this one.
        fn wait_for_workers(&self) {
            let has_finished = || self.running.load(Ordering::Acquire) == 0;
            for _ in 0..SPINS {
                if has_finished() {
                    return;
                }
                std::hint::spin_loop();
            }
            let began = Instant::now();
            while began.elapsed() < YIELDS {
                if has_finished() {
                    return;
                }
                std::thread::yield_now();
            }
            let mut ends = lock(&self.ends);
            // SeqCst against `running`: either the last worker sees that we sleep, or we see that it has finished. A swap,
            // for emulators of ARM let a load overtake the store before it, whatever their orderings.
            self.caller_sleeps.swap(true, Ordering::SeqCst);
            while self.running.load(Ordering::SeqCst) != 0 {
                ends = (self.finished.wait(ends)).unwrap_or_else(PoisonError::into_inner);
            }
            self.caller_sleeps.store(false, Ordering::Relaxed);
        }

        /// The life of a worker.
        fn work(&self, thread: usize) {
            let mut seen = 0;
            loop {
                seen = self.next_epoch(seen);
                // SAFETY: the acquire of `epoch` makes the caller's write visible; it writes again only after this
                // worker has left `running`.
                let Some(job) = (unsafe { *self.job.get() }) else {
                    return;
                };
                // SAFETY: the caller keeps the job alive until this worker has left `running`.
                let result = catch_unwind(AssertUnwindSafe(|| unsafe { (*job)(thread) }));
                if let Err(panic) = result {
                    lock(&self.panic).get_or_insert(panic);
                }
                let was_last = self.running.fetch_sub(1, Ordering::SeqCst) == 1;
                if was_last && self.caller_sleeps.load(Ordering::SeqCst) {
                    let _ends = lock(&self.ends);
                    self.finished.notify_one();
                }
            }
        }

        /// Waits until the epoch is no longer `seen`, spinning first.
        fn next_epoch(&self, seen: usize) -> usize {
            for _ in 0..SPINS {
                let epoch = self.epoch.load(Ordering::Acquire);
                if epoch != seen {
                    return epoch;
                }
                std::hint::spin_loop();
            }
            let mut sleepers = lock(&self.sleepers);
            *sleepers += 1;
            // A swap for the reason in `wait_for_workers`.
            self.has_sleepers.swap(true, Ordering::SeqCst);
            loop {
                let epoch = self.epoch.load(Ordering::SeqCst);
                if epoch != seen {
                    *sleepers -= 1;
                    if *sleepers == 0 {
                        self.has_sleepers.store(false, Ordering::SeqCst);
                    }
                    return epoch;
                }
                sleepers = self
                    .wake
                    .wait(sleepers)
                    .unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    impl std::fmt::Debug for Pool {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "Pool({} threads)", self.threads())
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_caller_that_waits_for_long_falls_asleep_and_is_woken() {
            let pool = Pool::new(3).unwrap();
            for _ in 0..3 {
                pool.on_all_threads(&|thread| {
                    // A caller that never slept would keep this waiting for ever.
                    while thread == 1 && !pool.shared.caller_sleeps.load(Ordering::SeqCst) {
                        std::thread::yield_now();
                    }
                });
                assert!(!pool.shared.caller_sleeps.load(Ordering::SeqCst));
            }
        }

        #[test]
        fn a_caller_that_falls_asleep_while_the_last_worker_ends_is_woken() {
            let pool = Pool::new(2).unwrap();
            for op in 0..1000 {
                let began = Instant::now();
                // Around the moment at which the caller gives up yielding.
                let takes = YIELDS + Duration::from_nanos(op * 7919 % 60_000);
                pool.on_all_threads(&|thread| {
                    while thread == 1 && began.elapsed() < takes {
                        std::hint::spin_loop();
                    }
                });
            }
        }

        #[test]
        fn workers_without_work_fall_asleep_and_wake_for_the_next_op() {
            let pool = Pool::new(3).unwrap();
            for _ in 0..3 {
                // Every worker takes part in an op, so all are awake when it returns or on their way back to waiting.
                let calls = AtomicUsize::new(0);
                pool.on_all_threads(&|_| {
                    calls.fetch_add(1, Ordering::Relaxed);
                });
                assert_eq!(calls.into_inner(), 3);
                // A worker that never slept would keep this waiting for ever.
                while *lock(&pool.shared.sleepers) < 2 {
                    std::thread::yield_now();
                }
            }
        }
    }
}

#[cfg(all(test, not(target_family = "wasm")))]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn ranges_cover_every_item_once() {
        for threads in 1..4 {
            let pool = Pool::new(threads).unwrap();
            assert_eq!(pool.threads(), threads);
            for (n, grain) in [(0, 1), (1, 1), (7, 2), (100, 7), (100, 1000), (5, 0)] {
                let counts: Vec<AtomicUsize> = (0..n).map(|_| AtomicUsize::new(0)).collect();
                pool.for_ranges(n, grain, |range, thread| {
                    assert!(thread < threads);
                    for i in range {
                        counts[i].fetch_add(1, Ordering::Relaxed);
                    }
                });
                assert!(
                    counts
                        .iter()
                        .all(|count| count.load(Ordering::Relaxed) == 1),
                    "{n} by {grain}"
                );
            }
        }
    }

    #[test]
    fn many_short_ops_in_a_row_all_finish() {
        let pool = Pool::new(3).unwrap();
        let total = AtomicUsize::new(0);
        for _ in 0..2000 {
            pool.for_ranges(6, 1, |range, _| {
                total.fetch_add(range.len(), Ordering::Relaxed);
            });
        }
        assert_eq!(total.into_inner(), 12000);
    }

    #[test]
    fn a_panic_of_any_thread_reaches_the_caller_and_the_pool_goes_on() {
        let pool = Pool::new(3).unwrap();
        for bad in 0..8 {
            let result = catch_unwind(AssertUnwindSafe(|| {
                pool.for_ranges(8, 1, |range, _| assert!(range.start != bad, "item {bad}"));
            }));
            let message = result.unwrap_err().downcast::<String>().unwrap();
            assert_eq!(*message, format!("item {bad}"));
        }
        let seen = Mutex::new(Vec::new());
        pool.for_ranges(4, 1, |range, _| seen.lock().unwrap().push(range.start));
        let mut seen = seen.into_inner().unwrap();
        seen.sort_unstable();
        assert_eq!(seen, [0, 1, 2, 3]);
    }
}
