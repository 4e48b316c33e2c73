//! What runners have counted: an engine whose runner was replaced goes on from where the lost one stood, because
//! whoever reads counters takes the difference of two.

use bitnet_kernels::{HeadWork, Traffic};

use crate::runner::Runner;

/// Counters of one runner, or of several together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct RunnerWork {
    /// What finding candidates took.
    pub head: HeadWork,
    /// What passes of one row have read of the ternary weights.
    pub traffic: Traffic,
}

impl RunnerWork {
    /// What `runner` has counted.
    pub fn of(runner: &dyn Runner) -> RunnerWork {
        RunnerWork {
            head: runner.head_work(),
            traffic: runner.traffic(),
        }
    }

    /// Both together.
    pub fn and(self, other: RunnerWork) -> RunnerWork {
        // Taken apart field by field, so that a new counter cannot be forgotten here.
        let HeadWork {
            searched,
            full,
            refined,
            rescored,
            bytes,
        } = other.head;
        let Traffic {
            passes,
            ternary_bytes,
            skipped_bytes,
            up_rows_read,
            up_rows,
            down_columns_read,
            down_columns,
        } = other.traffic;
        let RunnerWork { head, traffic } = self;
        RunnerWork {
            head: HeadWork {
                searched: head.searched + searched,
                full: head.full + full,
                refined: head.refined + refined,
                rescored: head.rescored + rescored,
                bytes: head.bytes + bytes,
            },
            traffic: Traffic {
                passes: traffic.passes + passes,
                ternary_bytes: traffic.ternary_bytes + ternary_bytes,
                skipped_bytes: traffic.skipped_bytes + skipped_bytes,
                up_rows_read: traffic.up_rows_read + up_rows_read,
                up_rows: traffic.up_rows + up_rows,
                down_columns_read: traffic.down_columns_read + down_columns_read,
                down_columns: traffic.down_columns + down_columns,
            },
        }
    }
}
