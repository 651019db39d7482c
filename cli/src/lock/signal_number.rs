//! Signals by their number, real-time ones among them, which no safe function makes.
//!
//! It does not know who sent one, nor what follows from it.
#![expect(
    unsafe_code,
    reason = "rustix makes real-time signals only unchecked; see the SAFETY comment"
)]

use nix::sys::signal;
use rustix::process::Signal;

/// The first real-time signal that programs may use: glibc and musl keep the ones below it.
const REAL_TIME_MIN: i32 = 34;
/// The last signal of all.
const REAL_TIME_MAX: i32 = 64;

/// The signal with this number, unless there is none or the C library keeps it for itself.
pub fn from_number(number: i32) -> Option<Signal> {
    match number {
        REAL_TIME_MIN..=REAL_TIME_MAX => {
            // SAFETY: Linux has the signals 1 to 64. The ones that the C library reserves, 32 and
            // 33 (34 too with musl, which sends it to threads of its own process only), are about
            // its own threads; this value is only sent to other processes, which got it as theirs.
            Some(unsafe { Signal::from_raw_unchecked(number) })
        }
        _ => Signal::from_named_raw(number),
    }
}

/// `SIGTERM`, or `SIGRTMIN+3`.
pub fn name(signal: Signal) -> String {
    let number = signal.as_raw();
    match signal::Signal::try_from(number) {
        Ok(named) => named.as_str().to_owned(),
        Err(_) => format!("SIGRTMIN+{}", number - REAL_TIME_MIN),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_has_a_number_and_a_name() {
        let named = |number| from_number(number).map(name);
        assert_eq!(named(15).as_deref(), Some("SIGTERM"));
        assert_eq!(named(30).as_deref(), Some("SIGPWR"));
        assert_eq!(named(34).as_deref(), Some("SIGRTMIN+0"));
        assert_eq!(named(64).as_deref(), Some("SIGRTMIN+30"));
        for none in [0, -1, 32, 33, 65] {
            assert_eq!(named(none), None, "{none}");
        }
    }
}
