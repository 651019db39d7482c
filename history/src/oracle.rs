//! A resource that lets itself be fenced, and notices what a fence cannot stop.
//!
//! It stands for the file or the database behind an exclusive lock. Its fence is the rule that
//! users are told: refuse a token below the largest one seen, **on reads too**. If a read did not
//! raise the mark, the late write of an old holder could slip in between the new holder's read and
//! its write.

use std::fmt;

/// One resource behind one exclusive lock, changed by read, think, write.
#[derive(Clone, Debug, Default)]
pub struct FencingOracle {
    /// The largest token seen; 0: none.
    mark: u64,
    /// The acquisition that came with it.
    owner: u64,
    /// How many writes were accepted.
    version: u64,
    value: u64,
    refused: u64,
    faults: Vec<OracleFault>,
}

/// The result of a read: hand `version` back with the write that follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versioned {
    /// How many writes came before.
    pub version: u64,
    /// The value of the last write; 0 at first.
    pub value: u64,
}

/// The fence did its work: somebody with a larger token was here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StaleToken {
    /// The token that came.
    pub token: u64,
    /// The largest one seen.
    pub mark: u64,
}

impl fmt::Display for StaleToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "token {} is stale: {} was here", self.token, self.mark)
    }
}

impl std::error::Error for StaleToken {}

/// A violation that no pause or crash excuses: the lock service broke its promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OracleFault {
    /// Two owners came with one token.
    TwoOwners {
        /// The token.
        token: u64,
        /// The one that came first.
        first: u64,
        /// The one that came then.
        second: u64,
    },
    /// A write passed the fence although the value had changed since its owner read it.
    LostUpdate {
        /// The write's token.
        token: u64,
        /// The writer.
        owner: u64,
        /// The version that the owner had read.
        read: u64,
        /// The version that the write replaced.
        replaced: u64,
    },
}

impl fmt::Display for OracleFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TwoOwners { token, first, second } => {
                write!(f, "owners {first} and {second} both came with token {token}")
            }
            Self::LostUpdate { token, owner, read, replaced } => write!(
                f,
                "owner {owner} read version {read} and replaced version {replaced} under token \
                 {token}: the updates between are lost"
            ),
        }
    }
}

impl FencingOracle {
    /// Reads under a token. `owner` is any number that tells clients' acquisitions apart.
    pub fn read(&mut self, token: u64, owner: u64) -> Result<Versioned, StaleToken> {
        self.fence(token, owner)?;
        Ok(Versioned { version: self.version, value: self.value })
    }

    /// Writes what follows from `read`.
    pub fn write(
        &mut self,
        token: u64,
        owner: u64,
        read: Versioned,
        value: u64,
    ) -> Result<(), StaleToken> {
        self.fence(token, owner)?;
        if read.version != self.version {
            let (read, replaced) = (read.version, self.version);
            self.faults.push(OracleFault::LostUpdate { token, owner, read, replaced });
        }
        self.version += 1;
        self.value = value;
        Ok(())
    }

    /// The violations that the fence could not stop; the service promises that there are none.
    pub fn faults(&self) -> &[OracleFault] {
        &self.faults
    }

    /// How often the fence refused: more than 0 where holders were paused, and then a good sign.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// The value now.
    pub fn value(&self) -> u64 {
        self.value
    }

    fn fence(&mut self, token: u64, owner: u64) -> Result<(), StaleToken> {
        if token < self.mark {
            self.refused += 1;
            return Err(StaleToken { token, mark: self.mark });
        }
        if token == self.mark && owner != self.owner {
            let (first, second) = (self.owner, owner);
            self.faults.push(OracleFault::TwoOwners { token, first, second });
        }
        self.mark = token;
        self.owner = owner;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_paused_holder_is_refused_and_nothing_is_lost() {
        let mut oracle = FencingOracle::default();
        let old = oracle.read(7, 1).unwrap();
        let new = oracle.read(8, 2).unwrap();
        let error = oracle.write(7, 1, old, old.value + 1).unwrap_err();
        assert_eq!(error.to_string(), "token 7 is stale: 8 was here");
        oracle.write(8, 2, new, new.value + 1).unwrap();
        assert_eq!((oracle.value(), oracle.refused()), (1, 1));
        assert_eq!(oracle.faults(), []);
    }

    #[test]
    fn a_token_given_twice_is_a_fault() {
        let mut oracle = FencingOracle::default();
        let a = oracle.read(7, 1).unwrap();
        let b = oracle.read(7, 2).unwrap();
        oracle.write(7, 1, a, 1).unwrap();
        oracle.write(7, 2, b, 1).unwrap();
        let told: Vec<String> = oracle.faults().iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "owners 1 and 2 both came with token 7",
                "owners 2 and 1 both came with token 7",
                "owners 1 and 2 both came with token 7",
                "owner 2 read version 0 and replaced version 1 under token 7: the updates between \
                 are lost",
            ]
        );
    }
}
