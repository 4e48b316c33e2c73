//! A server on this machine that speaks the Hub's API, and fails as it is told to.
//!
//! Written on sockets, not on a server's library: such a library would not send a wrong length, or half an answer.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;

use serde_json::{Value, json};
use sha1::Digest;

/// What goes wrong with one answer to a file's request.
#[derive(Debug, Clone)]
pub enum Trouble {
    /// A status with headers instead of the file.
    Status(u16, Vec<(&'static str, String)>),
    /// A page for people instead of what was asked for.
    WebPage,
    /// The connection ends after so many bytes of the body.
    Cut(usize),
    /// Nothing more comes after so many bytes, until the client hangs up.
    Stall(usize),
    /// The first byte of the body is another one.
    Wrong,
    /// So many bytes follow the file, announced in the length.
    More(usize),
    /// So many bytes follow the file, in an answer without a length.
    MoreUnannounced(usize),
    /// The length says so many bytes less than the file has, and no more are sent.
    Short(usize),
    /// The length says so many bytes more than are sent.
    Long(usize),
    /// From here on the file has this entity tag.
    Tag(&'static str),
    /// The range is answered from another offset than was asked for.
    OtherRange,
    /// The range is ignored.
    NoRange,
    /// Nothing is sent until [`FakeHub::let_go`].
    Hold,
}

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The path with its query.
    pub path: String,
    /// Names in lower case.
    pub headers: HashMap<String, String>,
}

#[derive(Default)]
struct State {
    answers: Mutex<BTreeMap<String, (u16, String)>>, // of the API
    files: Mutex<BTreeMap<String, (Vec<u8>, String)>>, // by path, with entity tag
    troubles: Mutex<HashMap<String, VecDeque<Trouble>>>,
    seen: Mutex<Vec<Seen>>,
    sent: Mutex<u64>, // bytes of files
    gate: (Mutex<bool>, Condvar),
    ended: AtomicBool,
}

/// The server; it ends when it is dropped.
pub struct FakeHub {
    address: SocketAddr,
    state: Arc<State>,
}

/// Any commit.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}

/// Bytes of no pattern.
pub fn noise(n: usize, seed: u64) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        (x >> 32) as u8
    };
    (0..n).map(|_| next()).collect()
}

/// `bytes` in lower-case digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The checksum of a large file.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&sha2::Sha256::digest(bytes))
}

/// The checksum of a small one.
pub fn git_blob(bytes: &[u8]) -> String {
    let mut sum = sha1::Sha1::new();
    sum.update(format!("blob {}\0", bytes.len()));
    sum.update(bytes);
    hex(&sum.finalize())
}

impl FakeHub {
    /// Begins to serve nothing.
    pub fn start() -> FakeHub {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        let shared = state.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.ended.load(Ordering::SeqCst) {
                    return;
                }
                let (stream, state) = (stream.unwrap(), shared.clone());
                // A client that goes away ends the answer, and that is no failure of the test.
                thread::spawn(move || serve(stream, &state).ok());
            }
        });
        FakeHub { address, state }
    }

    /// For `HF_ENDPOINT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Has a repository with these files, at [`COMMIT`], which is `main`. Names that end in `.json` or `.txt` are
    /// small files.
    pub fn has(&self, id: &str, files: &[(&str, &[u8])]) {
        self.has_at(id, "main", COMMIT, files, &json!({"license": "mit"}));
    }

    /// Has a repository with these files and this card at a commit, which a revision is.
    pub fn has_at(
        &self,
        id: &str,
        revision: &str,
        commit: &str,
        files: &[(&str, &[u8])],
        card: &Value,
    ) {
        let mut siblings = Vec::new();
        for (name, bytes) in files {
            let small = git_blob(bytes);
            let is_small =
                name.ends_with(".json") || name.ends_with(".txt") || name.ends_with(".md");
            let large = sha256(bytes);
            siblings.push(match is_small {
                true => json!({"rfilename": name, "size": bytes.len(), "blobId": small}),
                false => json!({"rfilename": name, "size": bytes.len(), "blobId": small,
                    "lfs": {"sha256": large, "size": bytes.len(), "pointerSize": 130}}),
            });
            let tag = format!("\"{}\"", if is_small { &small } else { &large });
            let path = format!("/{id}/resolve/{commit}/{name}");
            lock(&self.state.files).insert(path, (bytes.to_vec(), tag));
        }
        let answer =
            json!({"id": id, "sha": commit, "siblings": siblings, "cardData": card, "tags": []});
        for revision in [revision, commit] {
            self.answers(id, revision, 200, &answer.to_string());
        }
    }

    /// Answers so when it is asked what a repository holds.
    pub fn answers(&self, id: &str, revision: &str, status: u16, answer: &str) {
        let path = format!("/api/models/{id}/revision/{revision}");
        lock(&self.state.answers).insert(path, (status, answer.into()));
    }

    /// Has trouble with the next answers for a file of a repository, or for `api/...`, one after the other.
    pub fn has_trouble(&self, id: &str, name: &str, troubles: impl IntoIterator<Item = Trouble>) {
        let path = match name {
            "" => format!("/api/models/{id}/revision/main"),
            name => format!("/{id}/resolve/{COMMIT}/{name}"),
        };
        lock(&self.state.troubles)
            .entry(path)
            .or_default()
            .extend(troubles);
    }

    /// A redirect to the same path of another server.
    pub fn redirect(to: &FakeHub, id: &str, name: &str) -> Trouble {
        let location = format!("{}/{id}/resolve/{COMMIT}/{name}", to.url());
        Trouble::Status(302, vec![("Location", location)])
    }

    /// What has been asked for.
    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.state.seen).clone()
    }

    /// What has been asked for of files, from which offsets; 0 is the whole.
    pub fn offsets(&self, name: &str) -> Vec<u64> {
        let of_file = |seen: &Seen| seen.path.ends_with(&format!("/{name}"));
        let offset = |seen: &Seen| match seen.headers.get("range") {
            None => 0,
            Some(range) => range["bytes=".len()..]
                .trim_end_matches('-')
                .parse()
                .unwrap(),
        };
        self.seen()
            .iter()
            .filter(|seen| of_file(seen))
            .map(offset)
            .collect()
    }

    /// Bytes of files that have been sent.
    pub fn sent(&self) -> u64 {
        *lock(&self.state.sent)
    }

    /// Lets the answers go on that are held.
    pub fn let_go(&self) {
        *lock(&self.state.gate.0) = true;
        self.state.gate.1.notify_all();
    }
}

impl Drop for FakeHub {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::SeqCst);
        self.let_go();
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(mut stream: TcpStream, state: &State) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().unwrap_or(Ok(String::new()))?;
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut headers = HashMap::new();
    for line in lines.by_ref() {
        let line = line?;
        match line.split_once(':') {
            None => break,
            Some((name, value)) => headers.insert(name.to_lowercase(), value.trim().to_owned()),
        };
    }
    if path.is_empty() {
        return Ok(());
    }
    lock(&state.seen).push(Seen {
        path: path.clone(),
        headers: headers.clone(),
    });
    // The one character that names of the tests' files have and addresses write otherwise.
    let path = path
        .split('?')
        .next()
        .unwrap_or_default()
        .replace("%20", " ");
    let path = path.as_str();
    let trouble = lock(&state.troubles)
        .get_mut(path)
        .and_then(VecDeque::pop_front);
    if let Some(Trouble::Status(status, headers)) = &trouble {
        let headers: String = headers
            .iter()
            .map(|(name, value)| format!("{name}: {value}\r\n"))
            .collect();
        return write!(
            stream,
            "HTTP/1.1 {status} No\r\n{headers}Content-Length: 0\r\nConnection: close\r\n\r\n"
        );
    }
    if let Some(Trouble::WebPage) = trouble {
        let page = "<html>log in</html>";
        let length = page.len();
        return write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Type: Text/HTML; charset=utf-8\r\nContent-Length: {length}\r\n\
             Connection: close\r\n\r\n{page}"
        );
    }
    if let Some((status, answer)) = lock(&state.answers).get(path).cloned() {
        let length = answer.len();
        return write!(
            stream,
            "HTTP/1.1 {status} X\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{answer}"
        );
    }
    let Some((bytes, mut tag)) = lock(&state.files).get(path).cloned() else {
        return write!(
            stream,
            "HTTP/1.1 404 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
    };
    if let Some(Trouble::Tag(new)) = trouble {
        tag = new.into();
        lock(&state.files).get_mut(path).unwrap().1 = new.into();
    }
    if let Some(Trouble::Hold) = trouble {
        let mut is_open = lock(&state.gate.0);
        while !*is_open {
            is_open = state.gate.1.wait(is_open).unwrap();
        }
    }
    let asked = headers.get("range").map(|range| {
        range["bytes=".len()..]
            .trim_end_matches('-')
            .parse()
            .unwrap()
    });
    let is_same = headers
        .get("if-range")
        .is_none_or(|version| *version == tag);
    let from: usize = match (&trouble, asked) {
        (Some(Trouble::NoRange), _) | (_, None) => 0,
        (_, Some(offset)) if is_same => offset,
        _ => 0,
    };
    let mut body = bytes[from..].to_vec();
    let (mut length, mut is_announced) = (body.len(), true);
    match trouble {
        Some(Trouble::Wrong) => body[0] ^= 1,
        Some(Trouble::More(n)) => {
            body.extend(vec![7; n]);
            length = body.len();
        }
        Some(Trouble::MoreUnannounced(n)) => {
            body.extend(vec![7; n]);
            is_announced = false;
        }
        Some(Trouble::Short(n)) => {
            body.truncate(body.len() - n);
            length = body.len();
        }
        Some(Trouble::Long(n)) => length += n,
        Some(Trouble::Cut(n) | Trouble::Stall(n)) => body.truncate(n),
        _ => {}
    }
    let shown = match trouble {
        Some(Trouble::OtherRange) => from + 1,
        _ => from,
    };
    let (status, range) = match from {
        0 => ("200 OK", String::new()),
        _ => (
            "206 Partial Content",
            format!(
                "Content-Range: bytes {shown}-{}/{}\r\n",
                bytes.len() - 1,
                bytes.len()
            ),
        ),
    };
    let length = match is_announced {
        true => format!("Content-Length: {length}\r\n"),
        false => String::new(),
    };
    // Before it is sent: a client that has everything may ask for the sum at once.
    *lock(&state.sent) += body.len() as u64;
    write!(
        stream,
        "HTTP/1.1 {status}\r\nETag: {tag}\r\n{range}{length}Connection: close\r\n\r\n"
    )?;
    stream.write_all(&body)?;
    if let Some(Trouble::Stall(_)) = trouble {
        // Until the client hangs up.
        let _ = stream.read(&mut [0]);
    }
    stream.shutdown(Shutdown::Both)
}
