//! Ctrl-C and SIGTERM: every wait of the load generator ends with an error, so that what it started is cleaned up.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use tokio::signal::unix::{SignalKind, signal};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// How long a sleep may be blind to an interrupt.
const LONGEST_NAP: Duration = Duration::from_millis(50);

/// From now on a signal to end is noted instead of ending the process at once.
///
/// # Errors
/// When the signal handlers cannot be installed.
pub(super) fn install() -> Result<()> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_io().build().context("cannot start the signal handler")?;
    let guard = runtime.enter();
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
    drop(guard);
    thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
        INTERRUPTED.store(true, Ordering::Relaxed);
    });
    Ok(())
}

/// # Errors
/// When a signal to end has come.
pub(super) fn check() -> Result<()> {
    ensure!(!INTERRUPTED.load(Ordering::Relaxed), "interrupted");
    Ok(())
}

/// Sleeps, but not through an interrupt.
///
/// # Errors
/// When a signal to end has come.
pub(super) fn sleep_until(deadline: Instant) -> Result<()> {
    loop {
        check()?;
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        thread::sleep(left.min(LONGEST_NAP));
    }
}
