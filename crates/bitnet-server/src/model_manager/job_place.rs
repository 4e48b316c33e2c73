//! The place of a job at its model: while a job has it, nothing else is done about the model.
//!
//! Whoever works for a job holds a [`JobPlace`]. However that work ends, by its end, by a panic or because nobody waits
//! for it any more, the place is free again afterwards: else its name would be busy until the process is started again.

use std::sync::Arc;
use std::time::Instant;

use super::entry::EntryState;
use super::job::LoadJob;
use crate::app::{App, shutting_down};
use crate::error::{ApiError, ErrorCode};

/// The place that a job has at its model, given free when this is dropped.
pub(super) struct JobPlace {
    /// The job.
    pub job: Arc<LoadJob>,
    app: Arc<App>,
    id: String,
}

impl JobPlace {
    /// The place that `job` has at the model `id` already.
    pub fn of(app: &Arc<App>, id: &str, job: Arc<LoadJob>) -> JobPlace {
        JobPlace {
            job,
            app: app.clone(),
            id: id.to_owned(),
        }
    }

    /// Gives the place free, and says how the job ended.
    pub fn end(self, outcome: Result<(), ApiError>) {
        self.give_free(outcome);
    }

    fn give_free(&self, outcome: Result<(), ApiError>) {
        if let Ok(entry) = self.app.models.write().entry(&self.id)
            && entry.job().is_some_and(|own| Arc::ptr_eq(own, &self.job))
        {
            let has_origin = entry.origin.is_some();
            match &mut entry.state {
                // A swap that failed has left its model as it was, and what had a share of the requests goes with it.
                EntryState::Loaded { swap, .. } => {
                    *swap = None;
                    entry.canary = None;
                }
                state => {
                    *state = match &outcome {
                        Ok(()) => EntryState::Unloaded,
                        // There may be room in a moment.
                        Err(error) if error.code == ErrorCode::Overloaded && has_origin => {
                            EntryState::Unloaded
                        }
                        Err(error) => EntryState::Failed {
                            at: Instant::now(),
                            error: error.clone(),
                            source: self.job.ordered.as_ref().map(|own| own.source.clone()),
                        },
                    }
                }
            }
        }
        self.job.end(outcome);
    }
}

impl Drop for JobPlace {
    fn drop(&mut self) {
        if self.job.outcome().is_some() {
            return;
        }
        // A server that ends waits for requests alone, and drops what else it does.
        if self.app.is_draining() && !std::thread::panicking() {
            self.give_free(Err(shutting_down()));
            return;
        }
        tracing::error!(model = self.id, job = self.job.id, "a job broke off");
        let message = format!("what was being done to the model '{}' broke off", self.id);
        self.give_free(Err(ApiError::new(ErrorCode::InternalError, message)));
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::limits::ServerLimits;

    /// A server that loads a model for `job`.
    fn loading(job: &Arc<LoadJob>) -> Arc<App> {
        let app = Arc::new(App::new(ServerLimits::default()));
        let mut table = app.models.write();
        let entry = table.entries.entry("broken".into()).or_default();
        entry.state = EntryState::Loading(job.clone());
        drop(table);
        app
    }

    #[test]
    fn a_panic_gives_the_place_free_and_ends_the_job_with_an_error() {
        let job = Arc::new(LoadJob::new("job-1".into(), false));
        let app = loading(&job);
        let place = JobPlace::of(&app, "broken", job.clone());
        let panicked = catch_unwind(AssertUnwindSafe(move || {
            let _place = place;
            panic!("a broken invariant");
        }));
        assert!(panicked.is_err());
        let table = app.models.read();
        let EntryState::Failed { error, .. } = &table.entries["broken"].state else {
            panic!("the place is still taken");
        };
        assert_eq!(error.code, ErrorCode::InternalError);
        let told = job.outcome().expect("whoever waits is told").unwrap_err();
        assert_eq!(told.code, ErrorCode::InternalError);
    }

    #[test]
    fn what_the_end_of_the_server_breaks_off_is_no_error_of_ours() {
        let job = Arc::new(LoadJob::new("job-1".into(), false));
        let app = loading(&job);
        app.start_draining();
        drop(JobPlace::of(&app, "broken", job.clone()));
        let told = job.outcome().expect("whoever waits is told").unwrap_err();
        assert_eq!(told.code, ErrorCode::ShuttingDown);
    }

    #[test]
    fn whoever_has_the_place_meanwhile_keeps_it() {
        let (old, new) = ["job-1", "job-2"]
            .map(|id| Arc::new(LoadJob::new(id.into(), false)))
            .into();
        let app = loading(&new);
        drop(JobPlace::of(&app, "broken", old));
        let table = app.models.read();
        let holder = table.entries["broken"].job().expect("the place is taken");
        assert!(Arc::ptr_eq(holder, &new));
        assert!(new.outcome().is_none());
    }
}
