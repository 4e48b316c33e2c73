//! Days, months, restarts, several processes, clocks that are set, and files that somebody has been at.

use std::path::Path;
use std::time::UNIX_EPOCH;

use super::*;

const ID: &str = "0123abcd";
/// 2026-12-31T23:00:00Z
const LATE: u64 = 1_798_758_000;

fn at(second: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(second)
}

fn daily(tokens: u64) -> Quota {
    Quota {
        tokens_per_day: tokens,
        tokens_per_month: 0,
    }
}

fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.json.usage");
    (folder, path)
}

fn open(path: &Path) -> Arc<QuotaLedger> {
    Arc::new(QuotaLedger::open(Some(path.to_owned())))
}

/// Uses `tokens` at once, or says when there will be some.
fn spend(ledger: &Arc<QuotaLedger>, quota: Quota, now: u64, tokens: u64) -> Result<(), Duration> {
    let share = ledger.enter(ID, quota, at(now));
    let share = share.map_err(|too_much| {
        assert_eq!(too_much.exceeded, Exceeded::Quota);
        too_much.retry_after
    })?;
    share.take(tokens).unwrap();
    share.settle(tokens, tokens);
    Ok(())
}

#[test]
fn a_quota_ends_with_its_day_and_its_month() {
    let ledger = Arc::new(QuotaLedger::open(None));
    let quota = daily(100);
    assert_eq!(spend(&ledger, quota, LATE, 60), Ok(()));
    assert_eq!(
        spend(&ledger, quota, LATE, 60),
        Ok(()),
        "what begins is finished"
    );
    let hour = Duration::from_secs(3600);
    assert_eq!(spend(&ledger, quota, LATE, 1), Err(hour));
    assert_eq!(
        spend(&ledger, quota, LATE + 3599, 1),
        Err(Duration::from_secs(1))
    );
    assert_eq!(spend(&ledger, quota, LATE + 3600, 100), Ok(()));
    assert_eq!(
        spend(&ledger, quota, LATE + 3600, 1),
        Err(Duration::from_secs(DAY))
    );

    let ledger = Arc::new(QuotaLedger::open(None));
    let quota = Quota {
        tokens_per_day: 100,
        tokens_per_month: 150,
    };
    let first_of_december = LATE + 3600 - 31 * DAY;
    assert_eq!(spend(&ledger, quota, first_of_december, 100), Ok(()));
    assert_eq!(
        spend(&ledger, quota, first_of_december, 1),
        Err(Duration::from_secs(DAY))
    );
    assert_eq!(spend(&ledger, quota, LATE - DAY, 50), Ok(()));
    assert_eq!(
        spend(&ledger, quota, LATE - DAY, 1),
        Err(Duration::from_secs(DAY) + hour),
        "the month's end counts when the month is used up"
    );
    assert_eq!(spend(&ledger, quota, LATE + 3600, 100), Ok(()));
    let none = Quota::default();
    assert!(none.is_none());
    assert_eq!(
        spend(&ledger, none, LATE + 3600, u64::MAX),
        Ok(()),
        "0 is no limit"
    );
}

#[test]
fn a_refusal_tells_which_quota_how_much_was_used_and_when_it_begins_anew() {
    let ledger = Arc::new(QuotaLedger::open(None));
    let quota = Quota {
        tokens_per_day: 100,
        tokens_per_month: 1000,
    };
    let share = ledger.enter(ID, quota, at(LATE)).unwrap();
    assert_eq!(
        share.remaining(at(LATE)),
        Some((100, 100, Duration::from_secs(3600)))
    );
    share.take(90).unwrap();
    share.settle(90, 90);
    assert_eq!(share.remaining(at(LATE)).unwrap().1, 10);
    // The next day is whole, and of the month less is left than that.
    let new_year = share.remaining(at(LATE + 3600)).unwrap();
    assert_eq!((new_year.0, new_year.1), (100, 100));
    let other = ledger.enter(ID, quota, at(LATE)).unwrap();
    other.take(10).unwrap();
    let refused = ledger.enter(ID, quota, at(LATE)).unwrap_err();
    assert_eq!(
        refused.quota.unwrap().to_string(),
        "the key's quota of 100 tokens a day is used up: 90 were used and 10 are set aside for requests under way; it \
         begins anew at 2027-01-01T00:00:00Z"
    );
    other.settle(10, 950);
    let refused = ledger.enter(ID, quota, at(LATE)).unwrap_err();
    let state = refused.quota.unwrap();
    assert_eq!(
        (state.period, state.limit, state.used),
        (Period::Month, 1000, 1040)
    );
    assert_eq!(
        state.to_string(),
        "the key's quota of 1000 tokens a month is used up: 1040 were used; it begins anew at 2027-01-01T00:00:00Z"
    );
    let reset = Duration::from_secs(3600);
    assert_eq!(refused.remaining.tokens, Some((1000, 0, reset)));
    assert_eq!(refused.retry_after, reset);
}

#[test]
fn requests_at_once_are_held_against_what_they_have_set_aside() {
    let ledger = Arc::new(QuotaLedger::open(None));
    let enter = || ledger.enter(ID, daily(100), at(LATE));
    let first = enter().unwrap();
    first.take(100).unwrap();
    assert_eq!(enter().unwrap_err().retry_after, UNDER_WAY);
    first.settle(100, 30);
    let second = enter().unwrap();
    second.take(69).unwrap();
    assert!(enter().is_ok());
    second.settle(69, 70);
    assert_eq!(enter().unwrap_err().retry_after, Duration::from_secs(3600));
}

#[test]
fn heads_that_all_found_the_last_token_do_not_all_get_it() {
    let ledger = Arc::new(QuotaLedger::open(None));
    let enter = || ledger.enter(ID, daily(100), at(LATE)).unwrap();
    let (first, second, third) = (enter(), enter(), enter());
    first.take(100).unwrap();
    let refused = second.take(1).unwrap_err();
    assert_eq!(
        (refused.exceeded, refused.retry_after),
        (Exceeded::Quota, UNDER_WAY)
    );
    // One that runs and gets longer, or has more parts, is finished.
    first.take_more(20);
    first.take(30).unwrap();
    first.settle(150, 99);
    third.take(40).unwrap();
    third.settle(40, 40);
    let refused = second.take(1).unwrap_err();
    assert_eq!(refused.retry_after, Duration::from_secs(3600));
    // Nor does the turn of the day let those through who stand at the door: what is used on it is.
    assert_eq!(spend(&ledger, daily(100), LATE + DAY, 100), Ok(()));
    assert!(second.take(1).is_err());
}

#[test]
fn looking_at_a_damaged_file_changes_nothing() {
    let (folder, path) = folder();
    assert_eq!(usage_file::doubt(&path), None, "there is none yet");
    std::fs::write(&path, "{\"version\": 2, \"keys\": {}}").unwrap();
    let doubt = usage_file::doubt(&path).unwrap();
    assert!(doubt.contains("its version is 2"), "{doubt}");
    assert!(
        doubt.contains(".damaged and counts tokens from 0"),
        "{doubt}"
    );
    let files = std::fs::read_dir(folder.path()).unwrap();
    let names: Vec<_> = files.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["keys.json.usage"]);
}

#[test]
fn a_damaged_file_is_moved_by_who_holds_the_lock_alone() {
    let (_folder, path) = folder();
    std::fs::write(&path, "[]").unwrap();
    let lock = std::fs::File::create(path.with_extension("usage.lock")).unwrap();
    lock.lock().unwrap();
    assert_eq!(spend(&open(&path), daily(100), LATE, 7), Ok(()));
    assert_eq!(std::fs::read(&path).unwrap(), b"[]");
    lock.unlock().unwrap();
    open(&path);
    assert!(!path.exists());
}

#[test]
fn a_restart_forgets_nothing_and_two_processes_add_up() {
    let (_folder, path) = folder();
    let (old, new) = (open(&path), open(&path));
    old.write(at(LATE)).unwrap();
    assert!(!path.exists(), "nothing was used");
    assert_eq!(spend(&old, daily(100), LATE, 40), Ok(()));
    assert_eq!(spend(&new, daily(100), LATE, 50), Ok(()));
    old.write(at(LATE)).unwrap();
    new.write(at(LATE)).unwrap();
    old.write(at(LATE)).unwrap();
    new.write(at(LATE)).unwrap();
    assert_eq!(
        usage_file::read(&path).unwrap()[ID].in_day,
        90,
        "each is added once"
    );
    assert_eq!(
        spend(&new, daily(90), LATE, 1),
        Err(Duration::from_secs(3600))
    );
    assert_eq!(spend(&old, daily(100), LATE, 10), Ok(()));
    old.write(at(LATE)).unwrap();
    let restarted = open(&path);
    assert_eq!(
        spend(&restarted, daily(100), LATE, 1),
        Err(Duration::from_secs(3600))
    );
    let other = restarted.enter("key:89abcdef", daily(1), at(LATE));
    assert!(other.is_ok(), "keys do not share");
    assert_eq!(spend(&restarted, daily(100), LATE + DAY, 1), Ok(()));
}

#[test]
fn a_clock_that_is_set_shuts_nobody_out_for_long() {
    let (_folder, path) = folder();
    let ledger = open(&path);
    // For a moment it is a hundred years later, and everything is used up and written.
    let wrong = LATE + 36_500 * DAY;
    assert_eq!(spend(&ledger, daily(100), wrong, 100), Ok(()));
    ledger.write(at(wrong)).unwrap();
    assert_eq!(spend(&ledger, daily(100), LATE, 40), Ok(()));
    ledger.write(at(LATE)).unwrap();
    for ledger in [ledger, open(&path)] {
        assert_eq!(
            spend(&ledger, daily(40), LATE, 1),
            Err(Duration::from_secs(3600))
        );
        assert_eq!(spend(&ledger, daily(41), LATE, 0), Ok(()));
    }
    // A request that ends after midnight is of the day on which it began.
    let ledger = Arc::new(QuotaLedger::open(None));
    let share = ledger.enter(ID, daily(100), at(LATE)).unwrap();
    share.take(100).unwrap();
    assert_eq!(spend(&ledger, daily(200), LATE + DAY, 5), Ok(()));
    share.settle(100, 100);
    assert_eq!(spend(&ledger, daily(6), LATE + DAY, 1), Ok(()));
    assert!(spend(&ledger, daily(6), LATE + DAY, 1).is_err());
}

#[test]
fn a_damaged_file_is_put_aside_and_a_hostile_one_ends_nothing() {
    let huge = u64::MAX;
    let used =
        format!(r#"{{"day": {huge}, "in_day": {huge}, "month": {huge}, "in_month": {huge}}}"#);
    let (_folder, path) = folder();
    std::fs::write(
        &path,
        format!(r#"{{"version": 1, "keys": {{"{ID}": {used}}}}}"#),
    )
    .unwrap();
    let ledger = open(&path);
    assert_eq!(spend(&ledger, daily(100), LATE, 7), Ok(()));
    ledger.write(at(LATE)).unwrap();
    assert_eq!(usage_file::read(&path).unwrap()[ID].in_day, 7);
    let today = LATE / DAY;
    let full = format!(r#"{{"day": {today}, "in_day": {huge}, "month": 0, "in_month": {huge}}}"#);
    std::fs::write(
        &path,
        format!(r#"{{"version": 1, "keys": {{"{ID}": {full}}}}}"#),
    )
    .unwrap();
    let ledger = open(&path);
    assert_eq!(spend(&ledger, daily(0), LATE, huge), Ok(()));
    ledger.write(at(LATE)).unwrap();
    assert_eq!(usage_file::read(&path).unwrap()[ID].in_day, huge);

    let whole = std::fs::read(&path).unwrap();
    let large = vec![b' '; 5 << 20];
    let strange = [
        b"".as_slice(),
        b"[]",
        b"{\"version\": 2, \"keys\": {}}",
        b"{\"version\": 1, \"keys\": {\"../../etc\": {\"day\": 1, \"in_day\": 1, \"month\": 1, \"in_month\": 1}}}",
        b"{\"version\": 1, \"keys\": {\"0123abcd\": {\"day\": -1, \"in_day\": 1, \"month\": 1, \"in_month\": 1}}}",
        &large,
        &whole[..whole.len() - 1],
    ];
    let aside = path.with_extension("usage.damaged");
    for bytes in strange {
        std::fs::write(&path, bytes).unwrap();
        let ledger = open(&path);
        assert_eq!(std::fs::read(&aside).unwrap(), bytes);
        // And while it runs.
        assert_eq!(spend(&ledger, daily(100), LATE, 7), Ok(()));
        std::fs::write(&path, bytes).unwrap();
        ledger.write(at(LATE)).unwrap();
        assert_eq!(usage_file::read(&path).unwrap()[ID].in_day, 7);
        std::fs::remove_file(&path).unwrap();
    }
}

#[test]
fn what_cannot_be_written_is_kept_for_the_next_time() {
    let (folder, path) = folder();
    let ledger = open(&path);
    assert_eq!(spend(&ledger, daily(100), LATE, 7), Ok(()));
    // A folder where the file should be.
    std::fs::create_dir(&path).unwrap();
    assert!(ledger.write(at(LATE)).is_err());
    std::fs::remove_dir(&path).unwrap();
    ledger.write(at(LATE)).unwrap();
    assert_eq!(usage_file::read(&path).unwrap()[ID].in_day, 7);
    drop(folder);
    assert_eq!(spend(&ledger, daily(100), LATE, 7), Ok(()));
    assert!(ledger.write(at(LATE)).is_err());
    assert_eq!(
        spend(&ledger, daily(14), LATE, 1),
        Err(Duration::from_secs(3600))
    );
}

#[test]
fn what_was_used_in_other_months_leaves_the_file() {
    let (_folder, path) = folder();
    let ledger = open(&path);
    assert_eq!(spend(&ledger, daily(100), LATE - 40 * DAY, 7), Ok(()));
    ledger.write(at(LATE - 40 * DAY)).unwrap();
    let other = ledger.enter("89abcdef", daily(100), at(LATE)).unwrap();
    other.settle(0, 5);
    ledger.write(at(LATE)).unwrap();
    let kept: Vec<String> = usage_file::read(&path).unwrap().into_keys().collect();
    assert_eq!(kept, ["89abcdef"]);
}

#[test]
fn a_process_that_holds_the_file_for_ever_holds_nobody_up() {
    let (_folder, path) = folder();
    let ledger = open(&path);
    assert_eq!(spend(&ledger, daily(100), LATE, 7), Ok(()));
    let lock = std::fs::File::create(path.with_extension("usage.lock")).unwrap();
    lock.lock().unwrap();
    let error = ledger.write(at(LATE)).unwrap_err().to_string();
    assert!(error.contains("another process holds it"), "{error}");
    lock.unlock().unwrap();
    ledger.write(at(LATE)).unwrap();
    assert_eq!(usage_file::read(&path).unwrap()[ID].in_day, 7);
}
