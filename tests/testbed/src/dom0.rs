//! Commands in Dom0, over the second serial port.
//!
//! A small agent (`images/common/command-agent`, which also documents the lines) runs each script in the
//! background and answers with its output and exit status, so several commands may run at once: a wait in one
//! guest does not hold up another. Nothing here parses a console.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use flate2::read::GzDecoder;

use crate::failure::{Doing, Failure, Result};

/// Limits are told for a machine that has nothing else to do. Another one may be several times as slow, which is no failure;
/// what hangs is found out a little later.
pub(crate) const PATIENCE: u32 = 3;
/// How much longer than its own limit an answer may take to arrive.
const GRACE: Duration = Duration::from_secs(15);
/// How long the agent may take to say that it got a request before that is repeated.
const RECEIPT: Duration = Duration::from_secs(4);
const TRIES: u32 = 5;

/// What a command did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Standard output and error together.
    pub output: String,
    /// Exit status; 124 or 143 if the time limit ended it.
    pub status: i32,
}

impl Outcome {
    /// Whether the command exited with 0.
    #[must_use]
    pub fn ok(&self) -> bool {
        self.status == 0
    }
}

/// The command channel to Dom0; clones share it.
#[derive(Debug, Clone)]
pub struct Dom0 {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    to_agent: Mutex<UnixStream>,
    waiting: Mutex<HashMap<u64, Pending>>,
    next_id: AtomicU64,
    ready: AtomicBool,
    trace: Mutex<Option<File>>,
    epoch: Instant,
}

#[derive(Debug)]
struct Pending {
    output: Vec<u8>,
    pieces: usize,
    news: Sender<News>,
}

/// What the reader tells the asker.
#[derive(Debug)]
enum News {
    /// The agent has the request.
    Got,
    /// The answer is complete, or a piece of it was lost.
    Done(Result<Outcome>),
}

impl Dom0 {
    /// Connects to the agent's serial port; the agent itself may come up later.
    ///
    /// # Errors
    /// The socket does not exist yet or refuses.
    pub fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket)?;
        let from_agent = stream.try_clone()?;
        let shared = Arc::new(Shared {
            to_agent: Mutex::new(stream),
            waiting: Mutex::new(HashMap::new()),
            next_id: AtomicU64::new(1),
            ready: AtomicBool::new(false),
            trace: Mutex::new(None),
            epoch: Instant::now(),
        });
        let reader = Arc::clone(&shared);
        thread::spawn(move || {
            for line in BufReader::new(from_agent).lines().map_while(std::result::Result::ok) {
                reader.take_line(line.trim_end());
            }
            // The machine is gone: dropping the senders wakes everyone who still waits.
            lock(&reader.waiting).clear();
        });
        Ok(Self { shared })
    }

    /// Whether the agent has said that it takes commands.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.shared.ready.load(Ordering::Acquire)
    }

    /// Writes every command, with its time, duration and status, into a file from now on.
    ///
    /// # Errors
    /// The file cannot be created.
    pub fn trace_to(&self, path: &Path) -> Result<()> {
        *lock(&self.shared.trace) = Some(File::create(path).doing(path.display())?);
        Ok(())
    }

    /// Runs a shell script and waits for its end; the agent ends it after `limit`, several times (`PATIENCE`) over.
    ///
    /// # Errors
    /// The machine is gone or Dom0 does not answer. A script that fails is an [`Outcome`], not an error.
    pub fn run(&self, script: &str, limit: Duration) -> Result<Outcome> {
        self.run_as("dom0", script, script, limit)
    }

    /// As [`Self::run`], for a script that acts for `who` by running `shown`.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn run_as(&self, who: &str, shown: &str, script: &str, limit: Duration) -> Result<Outcome> {
        let (started, limit) = (Instant::now(), limit.saturating_mul(PATIENCE));
        let id = self.shared.next_id.fetch_add(1, Ordering::Relaxed);
        let (sender, news) = mpsc::channel();
        lock(&self.shared.waiting).insert(id, Pending { output: Vec::new(), pieces: 0, news: sender });
        let answer = self.ask(id, script, limit, &news);
        lock(&self.shared.waiting).remove(&id);
        if let Some(file) = lock(&self.shared.trace).as_mut() {
            let (at, taken) =
                (started.duration_since(self.shared.epoch).as_secs_f32(), started.elapsed().as_secs_f32());
            let result = answer.as_ref().map_or_else(ToString::to_string, |outcome| outcome.status.to_string());
            let _ = writeln!(file, "{at:8.2} +{taken:.2} s {who}# {} -> {result}", shown.replace('\n', "; "));
        }
        answer.doing(format!("asking {who} to run `{shown}`"))
    }

    fn ask(&self, id: u64, script: &str, limit: Duration, news: &Receiver<News>) -> Result<Outcome> {
        let script = BASE64.encode(script);
        let line = format!("@run {id} {} {} {script}\n", limit.as_secs().max(1), script.len());
        for _ in 0..TRIES {
            lock(&self.shared.to_agent).write_all(line.as_bytes())?;
            match news.recv_timeout(RECEIPT) {
                Ok(News::Got) => break,
                Ok(News::Done(answer)) => return answer,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(Failure::new("the machine is gone")),
            }
        }
        let deadline = Instant::now().checked_add(limit.saturating_add(GRACE)).unwrap_or_else(Instant::now);
        loop {
            match news.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(News::Got) => {}
                Ok(News::Done(answer)) => return answer,
                Err(RecvTimeoutError::Timeout) => return Err(Failure::new("no answer in time")),
                Err(RecvTimeoutError::Disconnected) => return Err(Failure::new("the machine is gone")),
            }
        }
    }

    /// Runs a script that must succeed and returns its output.
    ///
    /// # Errors
    /// As [`Self::run`], or the script's exit status is not 0.
    pub fn check(&self, script: &str, limit: Duration) -> Result<String> {
        let outcome = self.run(script, limit)?;
        if outcome.ok() {
            return Ok(outcome.output);
        }
        Err(Failure::new(format!("`{script}` in Dom0 exited with {}:\n{}", outcome.status, outcome.output.trim_end())))
    }
}

impl Shared {
    fn take_line(&self, line: &str) {
        let mut words = line.split(' ');
        match (words.next(), words.next().and_then(|id| id.parse::<u64>().ok()), words.next()) {
            (Some("@ready"), ..) => self.ready.store(true, Ordering::Release),
            (Some("@got"), Some(id), _) => {
                if let Some(pending) = lock(&self.waiting).get(&id) {
                    // An asker that gave up has dropped its receiver, here and below.
                    let _ = pending.news.send(News::Got);
                }
            }
            (Some("@out"), Some(id), Some(piece)) => {
                if let Some(pending) = lock(&self.waiting).get_mut(&id) {
                    pending.pieces = pending.pieces.saturating_add(1);
                    pending.output.extend(BASE64.decode(piece).unwrap_or_default());
                }
            }
            (Some("@end"), Some(id), Some(status)) => {
                let Some(pending) = lock(&self.waiting).remove(&id) else { return };
                let whole = words.next().and_then(|word| word.parse().ok()) == Some(pending.pieces);
                let output = unpack(pending.output, words.next() == Some("gzip"));
                let answer = match (whole, output, status.parse()) {
                    (true, Some(output), Ok(status)) => Ok(Outcome { output, status }),
                    _ => Err(Failure::new("a piece of the answer was lost")),
                };
                let _ = pending.news.send(News::Done(answer));
            }
            _ => {}
        }
    }
}

/// The text of an answer whose pieces may have been gzipped; `None` if they do not unpack.
fn unpack(bytes: Vec<u8>, gzipped: bool) -> Option<String> {
    let mut text = bytes;
    if gzipped {
        let packed = std::mem::take(&mut text);
        GzDecoder::new(packed.as_slice()).read_to_end(&mut text).ok()?;
    }
    Some(String::from_utf8_lossy(&text).into_owned())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
