use super::*;
use std::sync::mpsc::{Receiver, SyncSender};
use std::time::UNIX_EPOCH;

/// A writer that takes a line for every permission.
struct Gate {
    permissions: Receiver<()>,
    written: Arc<Mutex<Vec<u8>>>,
}

impl Write for Gate {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.permissions.recv(); // the other end is gone: everything may be written
        self.written.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A log whose audit lines wait for permissions, what gives these, and what was written.
fn stuck_log() -> (RequestLog, SyncSender<()>, Arc<Mutex<Vec<u8>>>) {
    let (allow, permissions) = sync_channel(0);
    let written = Arc::new(Mutex::new(Vec::new()));
    let gate = Gate {
        permissions,
        written: written.clone(),
    };
    let log = RequestLog::to(None, Box::new(io::sink()), Box::new(gate)).unwrap();
    (log, allow, written)
}

fn line(n: usize) -> AuditLine {
    AuditLine {
        time: UNIX_EPOCH,
        event: AuditEvent::Answered,
        who: None,
        peer: None,
        action: "POST /v1/models/load".into(),
        target: n.to_string(),
        status: 200,
        outcome: "done",
        reason: None,
        request: "req-1".into(),
    }
}

#[test]
fn a_log_that_is_stuck_loses_lines_and_says_how_many() {
    let (log, allow, written) = stuck_log();
    // One more than fits may be in the writer's hands; none of these calls waits.
    let n_lines = LINES_WAITING + 100;
    for n in 0..n_lines {
        log.audit(&line(n));
    }
    let lost = log.audit.as_ref().unwrap().lost.load(Ordering::Relaxed);
    assert!((99..=100).contains(&lost), "{lost}");
    drop(allow);
    // The queue may still be full for a moment.
    let deadline = Instant::now() + Duration::from_secs(30);
    while !String::from_utf8_lossy(&written.lock().unwrap()).contains("lost_lines") {
        assert!(Instant::now() < deadline, "nothing tells the loss");
        log.audit(&line(n_lines));
        std::thread::yield_now();
    }
    drop(log);
    let text = String::from_utf8(written.lock().unwrap().clone()).unwrap();
    let mut told = Vec::new();
    for line in text.lines() {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        match value["lost_lines"].as_u64() {
            Some(lost) => told.push(lost),
            None => assert_eq!(value["log"], "audit", "{line}"),
        }
    }
    // Those that were lost while nobody wrote; a later line tells what the loop above has lost since.
    assert!(told[0] >= 99, "{told:?}");
}

/// A disk with this much room.
struct Disk {
    room: Arc<Mutex<usize>>,
    written: Arc<Mutex<Vec<u8>>>,
}

impl Write for Disk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut room = self.room.lock().unwrap();
        let n = bytes.len().min(*room);
        if n == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        *room -= n;
        self.written.lock().unwrap().extend_from_slice(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_disk_that_fills_up_tears_one_line_at_most_and_the_next_one_tells_how_many_are_missing() {
    let whole = line(0).json().len() + 1;
    // Full between two lines, and in the middle of one.
    for (room, is_torn) in [(2 * whole, false), (2 * whole + 10, true), (0, false)] {
        let (room, written) = (Arc::new(Mutex::new(room)), Arc::new(Mutex::new(Vec::new())));
        let disk = Disk {
            room: room.clone(),
            written: written.clone(),
        };
        let n_whole = *room.lock().unwrap() / whole;
        let mut sink = Sink {
            to: Box::new(disk),
            kind: Kind::Audit,
            lost: 0,
            is_torn: false,
        };
        for n in 0..5 {
            sink.put(&format!("{}\n", line(n).json()));
        }
        *room.lock().unwrap() = 10_000;
        sink.put(&format!("{}\n", line(5).json()));
        sink.put(&format!("{}\n", line(6).json()));
        let text = String::from_utf8(written.lock().unwrap().clone()).unwrap();
        let mut lines: Vec<&str> = text.lines().collect();
        if is_torn {
            let torn = lines.remove(n_whole);
            assert_eq!(torn, &line(n_whole).json()[..10]);
        }
        let lost = format!("{{\"lost_lines\":{}}}", 5 - n_whole);
        let expected: Vec<String> = (0..n_whole)
            .map(|n| line(n).json())
            .chain([lost, line(5).json(), line(6).json()])
            .collect();
        assert_eq!(lines, expected);
    }
}

#[test]
fn a_file_is_added_to_and_is_its_owners_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    let mut settings = crate::config::ServerConfig::default().monitoring.clone();
    settings.audit_log_file = Some(path.clone());
    for n in 0..2 {
        let log = RequestLog::open(&settings).unwrap();
        assert!(!log.has_access_log());
        log.audit(&line(n));
    }
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text.lines().count(), 2, "{text}");
    #[cfg(unix)]
    {
        let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&path).unwrap());
        assert_eq!(mode & 0o777, 0o600);
    }
}

#[test]
fn the_access_log_is_written_as_the_log_unless_its_format_is_set_apart() {
    use crate::config::value::AccessLogFormat::{Json, None, On, Text};
    for log in [LogFormat::Text, LogFormat::Json] {
        assert_eq!(access_format(None, log), Option::None);
        assert_eq!(access_format(On, log), Some(log));
        assert_eq!(access_format(Text, log), Some(LogFormat::Text));
        assert_eq!(access_format(Json, log), Some(LogFormat::Json));
    }
}

#[test]
fn closing_waits_for_every_line_but_not_for_ever() {
    let (log, allow, written) = stuck_log();
    for n in 0..100 {
        log.audit(&line(n));
    }
    log.close(Duration::from_millis(20)); // nobody lets it write
    assert!(written.lock().unwrap().is_empty());
    let opened = std::thread::spawn(move || while allow.send(()).is_ok() {});
    log.close(Duration::from_secs(60));
    let text = String::from_utf8(written.lock().unwrap().clone()).unwrap();
    assert_eq!(text.lines().count(), 100, "{text}");
    log.audit(&line(100)); // too late, and no harm
    drop(log);
    opened.join().unwrap();
}
