//! SIGINT and SIGTERM: they end every wait with an error, so that child processes are cleaned up.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use tokio::signal::unix::{SignalKind, signal};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// The longest uninterruptible sleep.
const MAX_SLEEP: Duration = Duration::from_millis(50);

/// Installs handlers that record SIGINT and SIGTERM instead of ending the process.
///
/// # Errors
/// If the signal handlers cannot be installed.
pub(crate) fn install() -> Result<()> {
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

/// Checks for a signal.
///
/// # Errors
/// If a signal was received.
pub(crate) fn check() -> Result<()> {
    ensure!(!INTERRUPTED.load(Ordering::Relaxed), "interrupted");
    Ok(())
}

/// Sleeps until `deadline`.
///
/// # Errors
/// If a signal was received.
pub(crate) fn sleep_until(deadline: Instant) -> Result<()> {
    loop {
        check()?;
        let remaining = deadline.saturating_duration_since(Instant::now());
        if remaining.is_zero() {
            return Ok(());
        }
        thread::sleep(remaining.min(MAX_SLEEP));
    }
}
