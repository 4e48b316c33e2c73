//! How an order about a model ended: a second line of the audit log, by the same request's name.
//!
//! Such work goes on whoever waits for it, so the line about the answer cannot tell its end: a load is answered when it
//! begins, and nobody may be there any more when a swap is done.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::SystemTime;

use axum::extract::{FromRequestParts, MatchedPath};
use axum::http::request::Parts;

use super::{AuditEvent, AuditLine, RequestNotes};
use crate::app::{App, shutting_down};
use crate::error::{ApiError, ErrorCode};
use crate::request_id;

/// An order that may be begun: who gave it, and what it is about.
pub struct OrderAudit {
    app: Arc<App>,
    notes: RequestNotes,
    action: String,
    target: String,
    request: String,
}

/// An order that was begun. Its line is written at its end; when it is dropped before, the line says that it broke off,
/// or that the server ended first.
pub struct OrderUnderWay(Option<OrderAudit>);

impl FromRequestParts<Arc<App>> for OrderAudit {
    type Rejection = Infallible;

    async fn from_request_parts(
        parts: &mut Parts,
        app: &Arc<App>,
    ) -> Result<OrderAudit, Infallible> {
        let notes = parts.extensions.get::<RequestNotes>().cloned();
        let route = parts.extensions.get::<MatchedPath>();
        let route = route.map_or("", MatchedPath::as_str);
        Ok(OrderAudit {
            app: app.clone(),
            notes: notes.unwrap_or_default(), // nobody reads the log where nobody laid them by
            action: format!("{} {route}", parts.method),
            target: parts.uri.path().to_owned(),
            request: request_id::current().id.clone(),
        })
    }
}

impl OrderAudit {
    /// It is being done from now on.
    pub fn begin(self) -> OrderUnderWay {
        OrderUnderWay(Some(self))
    }

    fn tell(self, outcome: Result<(), &ApiError>) {
        let Some(action) = self.notes.action() else {
            return;
        };
        let about = action.note.about().map(|about| format!(" {about}"));
        let (status, name) = match outcome {
            Ok(()) => (200, "done"),
            Err(error) => (error.status().as_u16(), error.code.name()),
        };
        self.app.log.audit(&AuditLine {
            time: SystemTime::now(),
            event: AuditEvent::Ended,
            who: self.notes.who().map(str::to_owned),
            peer: action.peer,
            target: format!("{}{}", self.target, about.unwrap_or_default()),
            action: self.action,
            status,
            outcome: name,
            reason: outcome.err().map(|error| error.message.clone()),
            request: self.request,
        });
    }
}

impl OrderUnderWay {
    /// Writes how it ended.
    pub fn end<T>(mut self, outcome: &Result<T, ApiError>) {
        if let Some(order) = self.0.take() {
            order.tell(outcome.as_ref().map(|_| ()));
        }
    }
}

impl Drop for OrderUnderWay {
    fn drop(&mut self) {
        if let Some(order) = self.0.take() {
            let error = match order.app.is_draining() && !std::thread::panicking() {
                true => shutting_down(),
                false => ApiError::new(ErrorCode::InternalError, "it broke off"),
            };
            order.tell(Err(&error));
        }
    }
}
