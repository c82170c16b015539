//! The toolstack's requests to this domain: power off, halt, reboot.
//!
//! `xl shutdown` and `xl reboot` write a word to `control/shutdown` and wait up to a minute for it to be
//! emptied, which means "seen"; the domain then ends when it is ready. The node is emptied, not removed: its
//! directory is not ours, so we could not make it again.
//!
//! Xen: `~/control/shutdown`, `~/control/feature-*` in `docs/misc/xenstore-paths.pandoc`.

use core::time::Duration;

use crate::hyp::{Clock, Transaction, Watch, Xenstore, XsError, sleep};

const SHUTDOWN: &str = "control/shutdown";

/// What we respond to. The nodes exist, empty, when the toolstack made the domain.
const FEATURES: [(&str, &str); 3] =
    [("control/feature-poweroff", "1"), ("control/feature-reboot", "1"), ("control/feature-suspend", "0")];

/// Time until xenstore is tried again after it refused.
const RETRY: Duration = Duration::from_secs(1);

/// How often a conflicting transaction is run before doing without.
const ATTEMPTS: u32 = 10;

/// What the toolstack asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// End, and stay down (`xl shutdown`).
    PowerOff,
    /// End, and stay down; some tools say it so.
    Halt,
    /// End, and be started again (`xl reboot`).
    Reboot,
}

/// What was logged already.
#[derive(Default)]
struct Said {
    trouble: bool,
    unknown: bool,
}

enum Command {
    Known(Request),
    Suspend,
    Unknown,
    None,
}

impl Command {
    fn parse(value: &[u8]) -> Self {
        match value {
            b"poweroff" => Self::Known(Request::PowerOff),
            b"halt" => Self::Known(Request::Halt),
            b"reboot" => Self::Known(Request::Reboot),
            b"suspend" => Self::Suspend,
            b"" => Self::None,
            _ => Self::Unknown,
        }
    }
}

/// Waits for the toolstack to ask for the domain's end, and tells it that this was seen.
///
/// Asking for anything else has no effect: a suspend request is acknowledged and logged as not supported, so
/// that the toolstack does not wait for an answer; unknown words are left alone and logged once.
pub async fn requested(xs: &impl Xenstore, clock: &impl Clock) -> Request {
    let mut said = Said::default();
    loop {
        match serve(xs, &mut said).await {
            Ok(request) => return request,
            Err(error) => {
                if !core::mem::replace(&mut said.trouble, true) {
                    log::warn!("control: cannot watch for shutdown requests: {error}; trying again");
                }
                sleep(clock, RETRY).await;
            }
        }
    }
}

async fn serve(xs: &impl Xenstore, said: &mut Said) -> Result<Request, XsError> {
    let watch = xs.watch(SHUTDOWN).await?;
    for (node, value) in FEATURES {
        // A toolstack that did not make the node does not look at it either.
        let _ = xs.write(Transaction::NONE, node, value).await;
    }
    loop {
        watch.next().await;
        match take(xs).await? {
            Command::Known(request) => return Ok(request),
            Command::Suspend => log::warn!("control: suspend and migration are not supported; request refused"),
            Command::Unknown => {
                if !core::mem::replace(&mut said.unknown, true) {
                    log::warn!("control: unknown request in {SHUTDOWN} ignored");
                }
            }
            Command::None => {}
        }
    }
}

/// Reads the node, and empties it if it holds a word that we know.
async fn take(xs: &impl Xenstore) -> Result<Command, XsError> {
    for _ in 0..ATTEMPTS {
        // No transaction to be had: better to be shut down without one than not at all.
        let Ok(t) = xs.begin().await else { break };
        let command = match acknowledge(xs, t).await {
            Ok(command) => command,
            Err(error) => {
                // The first error is the one to report.
                let _ = xs.abort(t).await;
                return Err(error);
            }
        };
        match xs.commit(t).await {
            Ok(()) => return Ok(command),
            Err(XsError::Again) => {}
            Err(error) => return Err(error),
        }
    }
    acknowledge(xs, Transaction::NONE).await
}

async fn acknowledge(xs: &impl Xenstore, t: Transaction) -> Result<Command, XsError> {
    let command = match xs.read(t, SHUTDOWN).await {
        Ok(value) => Command::parse(&value),
        Err(XsError::NoEntry) => Command::None,
        Err(error) => return Err(error),
    };
    if matches!(command, Command::Known(_) | Command::Suspend) {
        xs.write(t, SHUTDOWN, "").await?;
    }
    Ok(command)
}

#[cfg(test)]
mod tests;
