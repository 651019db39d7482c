//! Looks at locks and tokens.

use sharklock_proto::v1::{self, lock_service_client::LockServiceClient};

use crate::{
    client::Client,
    error::CallError,
    ids::{FencingToken, Position},
    request::LockInfo,
    session::wire,
};

/// A lock as it was at a point of its range's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockSeen {
    /// When and where.
    pub position: Position,
    /// The lock; `None` while it is free.
    pub lock: Option<LockInfo>,
}

/// A part of a list of locks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockPage {
    /// In byte order of their names; at most 8 holders and 8 waiters of each.
    pub locks: Vec<LockInfo>,
    /// Where the next part begins; `None`: this is the last one. There may be one also if this one is
    /// short or empty.
    pub next_page_token: Option<String>,
}

/// The state of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenChecked {
    /// When and where.
    pub position: Position,
    /// A hold with this token was live at `position`. A hint: only the resource's own comparison
    /// fences.
    pub live: bool,
    /// That hold's fence floor; `None` when it was not live.
    pub fence_floor: Option<FencingToken>,
}

impl Client {
    /// Shows one lock with at most 100 of its waiters. Linearizable.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn get_lock(&self, name: &str) -> Result<LockSeen, CallError> {
        let request = v1::GetLockRequest { name: name.to_owned(), waiters_max: 0 };
        let response = self
            .calls()
            .read(request, |channel, request| async move {
                LockServiceClient::new(channel).get_lock(request).await
            })
            .await?;
        let position = wire::position(response.position);
        Ok(LockSeen { position, lock: response.lock.map(wire::lock_info) })
    }

    /// Lists all locks whose names begin with `prefix` (all when empty) and that are held or waited
    /// for, in byte order of their names, over all ranges. Whatever is held from the beginning of the
    /// call to its end is in the list once, also while ranges split. It is no snapshot: what comes or
    /// goes meanwhile may be there or not.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn list_locks(&self, prefix: &str) -> Result<Vec<LockInfo>, CallError> {
        const PAGE_SIZE: u32 = 1000;
        let mut locks = Vec::new();
        let mut page_token = String::new();
        loop {
            let page = self.list_locks_page(prefix, PAGE_SIZE, &page_token).await?;
            locks.extend(page.locks);
            match page.next_page_token {
                None => return Ok(locks),
                Some(next) => page_token = next,
            }
        }
    }

    /// One part of the list of [`list_locks`](Self::list_locks): at most `page_size` locks (1 to 1,000)
    /// from where `page_token` says; empty: from the beginning.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn list_locks_page(
        &self,
        prefix: &str,
        page_size: u32,
        page_token: &str,
    ) -> Result<LockPage, CallError> {
        let (prefix, page_token) = (prefix.to_owned(), page_token.to_owned());
        let request = v1::ListLocksRequest { prefix, page_size, page_token };
        let page = self
            .calls()
            .read(request, |channel, request| async move {
                LockServiceClient::new(channel).list_locks(request).await
            })
            .await?;
        let next = page.next_page_token;
        Ok(LockPage {
            locks: page.locks.into_iter().map(wire::lock_info).collect(),
            next_page_token: (!next.is_empty()).then_some(next),
        })
    }

    /// Whether `token` is the live token of the lock `name`. Linearizable, yet only a hint: it may
    /// have changed when the answer arrives.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn check_token(
        &self,
        name: &str,
        token: FencingToken,
    ) -> Result<TokenChecked, CallError> {
        let request = v1::CheckTokenRequest { name: name.to_owned(), token: token.as_u64() };
        let response = self
            .calls()
            .read(request, |channel, request| async move {
                LockServiceClient::new(channel).check_token(request).await
            })
            .await?;
        Ok(TokenChecked {
            position: wire::position(response.position),
            live: response.live,
            fence_floor: response.live.then(|| FencingToken::from_u64(response.fence_floor)),
        })
    }
}
