//! What a line of the logs says.
//!
//! Text of strangers is bounded and has no control characters, whichever alphabet they are of: a terminal obeys none of
//! it, and no line looks like two.

use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;

/// Longest text of a stranger in a line, in characters.
const LONGEST: usize = 200;

/// A request that ended.
#[derive(Debug, Clone)]
pub struct AccessLine {
    /// When it arrived.
    pub arrived: SystemTime,
    /// Its name.
    pub request: String,
    /// Who sent it, as the guard calls them; `None` for probes, and for those whom nothing makes known.
    pub who: Option<String>,
    /// Its method.
    pub method: String,
    /// The route that it matched, as the router has it: paths of strangers are in no line.
    pub route: Option<String>,
    /// The status of the answer; 499 when the client left before.
    pub status: u16,
    /// The error's code.
    pub code: Option<&'static str>,
    /// From its arrival to the last byte of its answer.
    pub milliseconds: u64,
    /// Bytes of the answer's body.
    pub bytes: u64,
    /// Whether the answer was taken to its end.
    pub complete: bool,
}

/// What a line of the audit log tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuditEvent {
    /// What a request was answered.
    Answered,
    /// How the load, swap, rollback or unloading ended that a request began.
    Ended,
}

impl AuditEvent {
    fn name(self) -> &'static str {
        match self {
            AuditEvent::Answered => "answered",
            AuditEvent::Ended => "ended",
        }
    }
}

/// An action of an administrator.
#[derive(Debug, Clone)]
pub struct AuditLine {
    /// When it was answered, or ended.
    pub time: SystemTime,
    /// Which of both.
    pub event: AuditEvent,
    /// Who asked for it, if a good key or token tells.
    pub who: Option<String>,
    /// Where it came from.
    pub peer: Option<IpAddr>,
    /// Method and route.
    pub action: String,
    /// What it is about.
    pub target: String,
    /// The status of the answer; 499 when the client left before.
    pub status: u16,
    /// `done`; `begun` for what goes on after the answer; `client_closed` when nobody waited for it, and what was begun
    /// goes on; or the error's code.
    pub outcome: &'static str,
    /// Why what was begun ended with an error.
    pub reason: Option<String>,
    /// The request's name.
    pub request: String,
}

impl AccessLine {
    /// For programs.
    pub fn json(&self) -> String {
        json!({
            "time": rfc3339(self.arrived),
            "log": "access",
            "request": plain(&self.request),
            "who": self.who.as_deref().map(plain),
            "method": plain(&self.method),
            "route": self.route,
            "status": self.status,
            "code": self.code,
            "milliseconds": self.milliseconds,
            "bytes": self.bytes,
            "complete": self.complete,
        })
        .to_string()
    }

    /// For people.
    pub fn text(&self) -> String {
        format!(
            "{} {} {} {} {} {} {} ms {} bytes{} {}",
            rfc3339(self.arrived),
            plain(self.who.as_deref().unwrap_or("-")),
            plain(&self.method),
            self.route.as_deref().unwrap_or("-"),
            self.status,
            self.code.unwrap_or("-"),
            self.milliseconds,
            self.bytes,
            if self.complete { "" } else { " (cut off)" },
            plain(&self.request),
        )
    }
}

impl AuditLine {
    /// An object in one line.
    pub fn json(&self) -> String {
        json!({
            "time": rfc3339(self.time),
            "log": "audit",
            "event": self.event.name(),
            "who": self.who.as_deref().map(plain),
            "peer": self.peer,
            "action": plain(&self.action),
            "target": plain(&self.target),
            "status": self.status,
            "outcome": self.outcome,
            "reason": self.reason.as_deref().map(plain),
            "request": plain(&self.request),
        })
        .to_string()
    }
}

/// A stranger's text without what a terminal would obey, and not all of a long one.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    for c in text.chars().take(LONGEST) {
        // C0, C1, and those that turn the direction of what follows.
        let obeyed = c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if obeyed {
            plain.extend(c.escape_unicode());
        } else {
            plain.push(c);
        }
    }
    plain
}

/// `2026-11-22T01:02:03.456Z`. Days to dates by the count of days of whole 400 years, which begin in March so that the
/// odd day is their last (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
pub(crate) fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let shifted = days + 719_468; // since 0000-03-01
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
        second / 3600,
        second / 60 % 60,
        second % 60,
        since.subsec_millis()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn days_become_dates() {
        for (seconds, date) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399, "2000-02-28T23:59:59.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (951_868_800, "2000-03-01T00:00:00.000Z"),
            (1_709_164_800, "2024-02-29T00:00:00.000Z"),
            (1_735_689_599, "2024-12-31T23:59:59.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(seconds)), date);
        }
    }

    #[test]
    fn a_strangers_text_stays_in_its_line_and_moves_no_terminal() {
        let evil = "a\r\n2026 forged\u{1b}[2J\u{9b}31m\u{202e}b\u{2028}c";
        let line = AuditLine {
            time: UNIX_EPOCH,
            event: AuditEvent::Ended,
            who: Some(evil.into()),
            peer: None,
            action: "POST /v1/models/load".into(),
            target: evil.into(),
            status: 200,
            outcome: "done",
            reason: Some(evil.into()),
            request: evil.into(),
        };
        let access = AccessLine {
            arrived: UNIX_EPOCH,
            request: evil.into(),
            who: Some(evil.into()),
            method: evil.into(),
            route: None,
            status: 200,
            code: None,
            milliseconds: 1,
            bytes: 2,
            complete: false,
        };
        for text in [line.json(), access.json(), access.text()] {
            assert!(!text.chars().any(char::is_control), "{text}");
            assert!(!text.contains(['\u{202e}', '\u{2028}']), "{text}");
            assert!(text.contains("forged"), "{text}");
        }
        assert_eq!(plain(&"x".repeat(9999)).len(), LONGEST);
    }
}
