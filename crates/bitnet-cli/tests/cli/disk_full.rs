//! A disk without room: who is told, what is kept, and that a server serves on.
//!
//! `/dev/full` stands for a full disk where a stream is written to; a limit on the size of files (RLIMIT_FSIZE) where a
//! file is. A signal comes with the second, which a shell ignores for its children.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use crate::bitnet::{bitnet, end, run};
use crate::served::{LIVE, Served, ask, command, completion, until};

/// `command` with files of at most so many blocks of 512 bytes.
fn with_files_of(blocks: usize, command: &Command) -> Command {
    let script = format!("trap '' XFSZ; ulimit -S -f {blocks}; exec \"$@\"");
    let mut shell = Command::new("sh");
    shell.args(["-c", &script, "sh"]).arg(command.get_program());
    shell.args(command.get_args()).stdin(Stdio::null());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell
}

fn full() -> Stdio {
    File::options()
        .write(true)
        .open("/dev/full")
        .unwrap()
        .into()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_key_that_does_not_fit_on_the_disk_leaves_the_file_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.json");
    let add = ["keys", "add", "--file", file.to_str().unwrap(), "--name"];
    run(&[&add[..], &["first"]].concat()).ok();
    let before = fs::read(&file).unwrap();
    let mut second = bitnet();
    second.args(add).arg("second");
    let ended = end(&mut with_files_of(0, &second));
    ended.fails(1, "cannot use the file of keys", "the file is what it was");
    assert_eq!(ended.stdout, "", "no key is shown that opens nothing");
    assert_eq!(fs::read(&file).unwrap(), before);
    assert_eq!(names(folder.path()), ["keys.json", "keys.json.lock"]);
    run(&[&add[..], &["third"]].concat()).ok();
}

#[test]
fn a_key_that_could_not_be_shown_is_taken_out_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.json");
    let add = ["keys", "add", "--file", file.to_str().unwrap(), "--name"];
    run(&[&add[..], &["first"]].concat()).ok();
    let child = bitnet()
        .args(add)
        .arg("unseen")
        .stdout(full())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let ended = child.wait_with_output().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(said.contains("was taken out of the file again"), "{said}");
    let listed = run(&["keys", "list", "--file", file.to_str().unwrap()]);
    assert!(listed.ok().contains("first") && !listed.stdout.contains("unseen"));
}

/// The port that a silent process listens on, by what the kernel lists.
fn port_of(id: u32) -> Option<u16> {
    let descriptors = fs::read_dir(format!("/proc/{id}/fd")).ok()?;
    let sockets: Vec<String> = descriptors
        .filter_map(|entry| {
            let target = fs::read_link(entry.ok()?.path()).ok()?;
            let inode = target
                .to_str()?
                .strip_prefix("socket:[")?
                .strip_suffix(']')?;
            Some(inode.to_owned())
        })
        .collect();
    // Local address, state (0A is "listens") and inode are the fields 1, 3 and 9, proc_net_tcp in the kernel's
    // documents.
    let table = fs::read_to_string(format!("/proc/{id}/net/tcp")).ok()?;
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let ours = fields[3] == "0A" && sockets.iter().any(|inode| inode == fields[9]);
        let (_, port) = fields[1].split_once(':')?;
        u16::from_str_radix(port, 16).ok().filter(|_| ours)
    })
}

fn admin_action(port: u16) -> String {
    let request = "POST /v1/models/load HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
        Connection: close\r\nContent-Length: 2\r\n\r\n{}";
    ask(port, request).unwrap()
}

#[test]
fn a_server_whose_logs_have_nowhere_to_go_serves_on_and_ends_in_good_order() {
    let mut child = command(&["--log-level", "debug", "--access-log", "json"])
        .stderr(full())
        .spawn()
        .unwrap();
    let port = until("port", String::new, || port_of(child.id()));
    for _ in 0..3 {
        assert!(
            ask(port, &completion(2))
                .unwrap()
                .starts_with("HTTP/1.1 200")
        );
        assert!(admin_action(port).starts_with("HTTP/1.1 401"));
        assert!(
            ask(port, "GARBAGE\r\n\r\n")
                .unwrap()
                .starts_with("HTTP/1.1 400")
        );
    }
    let id = child.id().to_string();
    let told = Command::new("kill").args(["-TERM", &id]).status();
    assert!(told.unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn lines_that_the_audit_file_has_no_room_for_are_in_the_log_and_the_file_tells_how_many() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("audit.log");
    let serve = command(&[
        "--audit-log-file",
        file.to_str().unwrap(),
        "--log-level",
        "error",
    ]);
    let served = Served::start(with_files_of(2, &serve));
    let port = served.port();
    let in_file = || fs::read_to_string(&file).unwrap();
    let mut n_actions = 0;
    let mut act = || {
        assert!(admin_action(port).starts_with("HTTP/1.1 401"));
        n_actions += 1;
        n_actions
    };
    // Two kilobytes hold some lines of two hundred bytes.
    while !served.text().contains("lines of a log cannot be written") {
        assert!(act() < 200, "{}", in_file());
    }
    let n_told = served
        .text()
        .matches("lines of a log cannot be written")
        .count();
    assert_eq!(n_told, 1, "{}", served.text());
    act();
    served.until_line("\\\"action\\\":\\\"POST /v1/models/load\\\"");
    assert!(
        ask(port, &completion(2))
            .unwrap()
            .starts_with("HTTP/1.1 200")
    );
    assert!(ask(port, LIVE).unwrap().starts_with("HTTP/1.1 200"));

    let id = Pid::from_raw(served.child.id() as i32);
    let maximum = getrlimit(Resource::Fsize).maximum;
    let usual = Rlimit {
        current: maximum,
        maximum,
    };
    prlimit(id, Resource::Fsize, usual).unwrap();
    let n_actions = act();
    until("the loss in the file", in_file, || {
        in_file().contains("lost_lines").then_some(())
    });
    until("the last line", in_file, || {
        in_file().ends_with("}\n").then_some(())
    });
    let text = in_file();
    let count = |words: &str| text.lines().filter(|line| line.contains(words)).count();
    let lost = text.lines().find_map(|line| {
        let n = line.strip_prefix("{\"lost_lines\":")?.strip_suffix('}')?;
        n.parse::<usize>().ok()
    });
    let whole = text
        .lines()
        .filter(|line| serde_json::from_str::<serde_json::Value>(line).is_ok())
        .count();
    assert_eq!(count("lost_lines"), 1, "{text}");
    assert_eq!(whole - 1 + lost.unwrap(), n_actions, "{text}");
}
