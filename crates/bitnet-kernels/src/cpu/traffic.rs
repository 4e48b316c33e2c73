//! Counters of what was read of the ternary weights, see [`Traffic`].
//!
//! One thread adds to them, once per op: relaxed additions cost nothing beside the op, and readers want totals, not an
//! order.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::backend::Traffic;

/// [`Traffic`] that can be added to through a shared reference.
#[derive(Debug, Default)]
pub struct TrafficCounters {
    passes: AtomicU64,
    ternary_bytes: AtomicU64,
    skipped_bytes: AtomicU64,
    up_rows_read: AtomicU64,
    up_rows: AtomicU64,
    down_columns_read: AtomicU64,
    down_columns: AtomicU64,
}

impl TrafficCounters {
    /// Adds what an op read.
    pub fn add(&self, op: Traffic) {
        let counters = [
            (&self.passes, op.passes),
            (&self.ternary_bytes, op.ternary_bytes),
            (&self.skipped_bytes, op.skipped_bytes),
            (&self.up_rows_read, op.up_rows_read),
            (&self.up_rows, op.up_rows),
            (&self.down_columns_read, op.down_columns_read),
            (&self.down_columns, op.down_columns),
        ];
        for (counter, more) in counters {
            if more > 0 {
                counter.fetch_add(more, Ordering::Relaxed);
            }
        }
    }

    /// The totals.
    pub fn totals(&self) -> Traffic {
        let total = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Traffic {
            passes: total(&self.passes),
            ternary_bytes: total(&self.ternary_bytes),
            skipped_bytes: total(&self.skipped_bytes),
            up_rows_read: total(&self.up_rows_read),
            up_rows: total(&self.up_rows),
            down_columns_read: total(&self.down_columns_read),
            down_columns: total(&self.down_columns),
        }
    }
}
