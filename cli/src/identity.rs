//! The identity of this process, for people who look at a lock.

use std::{env, process};

/// `USER@HOST pid PID`, at most 256 bytes, without control characters: what is unknown reads `?`.
pub fn default_owner() -> String {
    let user = ["USER", "LOGNAME"].into_iter().find_map(|name| env::var(name).ok());
    let user = user.or_else(|| {
        let found = nix::unistd::User::from_uid(nix::unistd::geteuid());
        found.ok().flatten().map(|user| user.name)
    });
    let host = nix::sys::utsname::uname().ok();
    let host = host.as_ref().and_then(|names| names.nodename().to_str());
    owner(user.as_deref(), host, process::id())
}

/// The name of this machine, as far as it fits into the name of a node.
pub fn host() -> String {
    let names = nix::sys::utsname::uname().ok();
    let name = names.as_ref().and_then(|names| names.nodename().to_str()).unwrap_or_default();
    let fits = |c: &char| c.is_ascii_alphanumeric() || "._-".contains(*c);
    let name: String = name.chars().filter(fits).take(64).collect();
    if name.is_empty() { "unnamed".to_owned() } else { name }
}

/// Host names have up to 64 bytes on Linux, user names 32; anything longer is cut.
fn owner(user: Option<&str>, host: Option<&str>, pid: u32) -> String {
    let clean = |text: Option<&str>| -> String {
        let text = text.filter(|text| !text.is_empty()).unwrap_or("?");
        let mut bytes = 0;
        text.chars()
            .filter(|c| !c.is_control())
            .take_while(|c| {
                bytes += c.len_utf8();
                bytes <= 100
            })
            .collect()
    };
    format!("{}@{} pid {pid}", clean(user), clean(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_fits_its_limits_whatever_the_machine_is_called() {
        assert_eq!(owner(Some("ann"), Some("host-3"), 811), "ann@host-3 pid 811");
        assert_eq!(owner(None, Some(""), 1), "?@? pid 1");
        let long = "ü\n".repeat(400);
        let owner = owner(Some(&long), Some(&long), u32::MAX);
        assert!(owner.len() <= 256 && !owner.contains('\n'), "{owner}");
    }
}
