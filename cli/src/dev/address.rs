//! The loopback address of one process's internal ports.
//!
//! Masters are known by their addresses for ever, and any number of `sharklock dev` may run on one
//! machine. So each data directory draws an address of its own among the 16 million of 127.0.0.0/8,
//! once, and its internal ports never meet another one's.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    net::Ipv4Addr,
    path::Path,
};

use crate::exit::{CONFIG, Failure};

/// The file that keeps it.
const FILE: &str = "address";

/// The address of a directory that this process has claimed, drawn if it has none yet.
pub fn of(dir: &Path) -> Result<Ipv4Addr, Failure> {
    let path = dir.join(FILE);
    let unusable = |why: &dyn std::fmt::Display| {
        Failure::new(CONFIG, format!("data directory {}: {FILE}: {why}", dir.display()))
    };
    match fs::read_to_string(&path) {
        Ok(text) => match text.trim().parse::<Ipv4Addr>() {
            Ok(address) if address.is_loopback() => Ok(address),
            _ => Err(unusable(&format!("{:?} is no loopback address", text.trim()))),
        },
        Err(why) if why.kind() == io::ErrorKind::NotFound => {
            let address = draw().map_err(|why| unusable(&why))?;
            write(&path, address).map_err(|why| unusable(&why))?;
            Ok(address)
        }
        Err(why) => Err(unusable(&why)),
    }
}

/// Whole or not at all, and on the disk before anybody is told of it.
fn write(path: &Path, address: Ipv4Addr) -> io::Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, format!("{address}\n"))?;
    File::open(&new)?.sync_all()?;
    fs::rename(new, path)?;
    File::open(path.parent().expect("it lies in a directory"))?.sync_all()
}

fn draw() -> io::Result<Ipv4Addr> {
    let mut random = [0; 3];
    File::open("/dev/urandom")?.read_exact(&mut random)?;
    let [a, b, c] = random;
    // Not 127.0.*.*, where people and tests choose by hand, and no broadcast address.
    Ok(Ipv4Addr::new(127, a.max(1), b, c.clamp(1, 254)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_drawn_once() {
        let dir = tempfile::TempDir::new().expect("a temporary directory");
        let address = of(dir.path()).expect("it is drawn");
        assert!(address.is_loopback() && address.octets()[1] != 0, "{address}");
        assert_eq!(of(dir.path()), Ok(address));
        let names: Vec<_> = fs::read_dir(dir.path()).expect("it is ours").flatten().collect();
        assert_eq!(names.len(), 1, "nothing else is left: {names:?}");
        fs::write(dir.path().join(FILE), "10.0.0.1").expect("it is written");
        let told = of(dir.path()).expect_err("not loopback").to_string();
        assert!(told.contains("\"10.0.0.1\" is no loopback address"), "{told}");
    }
}
