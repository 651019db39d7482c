//! Clients that take a port for a gateway's are told so, and where the gateway is: the ports of one
//! process are easily mixed up.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    task::{Context, Poll},
};

use tonic::{
    Code, Status,
    body::Body,
    codegen::{Service, http},
    server::NamedService,
};
use tonic_types::{ErrorDetails, StatusExt as _};

/// The reason of the refusal, for programs.
pub const WRONG_PORT: &str = "WRONG_PORT";
/// Domain of `google.rpc.ErrorInfo`.
const DOMAIN: &str = "sharklock";

/// The words of an internal port for those who take it for a gateway's.
pub fn wrong_port(what: &str, node: &str) -> String {
    let of = if node.is_empty() { String::new() } else { format!(" of {node}") };
    format!("this is the {what} port{of}: clients are served at the port of a gateway")
}

/// The name of a public service that is served elsewhere.
pub trait PublicService: Clone + Send + Sync + 'static {
    /// As in its `.proto`.
    const NAME: &'static str;
}

/// Locks, for applications.
#[derive(Clone, Copy, Debug)]
pub struct LockApi;
/// The cluster, for operators.
#[derive(Clone, Copy, Debug)]
pub struct AdminApi;

impl PublicService for LockApi {
    const NAME: &'static str = "sharklock.v1.LockService";
}

impl PublicService for AdminApi {
    const NAME: &'static str = "sharklock.v1.AdminService";
}

/// Refuses every call of a public service, with words for people.
#[derive(Clone, Debug)]
pub struct WrongPort<P> {
    message: String,
    service: std::marker::PhantomData<P>,
}

impl<P> WrongPort<P> {
    /// `message` says which port this is, and where clients are served.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), service: std::marker::PhantomData }
    }

    #[expect(clippy::disallowed_types, reason = "tonic-types takes metadata as a hash map")]
    fn refusal(&self) -> Status {
        let mut details = ErrorDetails::new();
        details.set_error_info(WRONG_PORT, DOMAIN, std::collections::HashMap::new());
        Status::with_error_details(Code::FailedPrecondition, self.message.clone(), details)
    }
}

impl<P: PublicService> NamedService for WrongPort<P> {
    const NAME: &'static str = P::NAME;
}

impl<P: PublicService, B> Service<http::Request<B>> for WrongPort<P> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _request: http::Request<B>) -> Self::Future {
        ready(Ok(self.refusal().into_http()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_is_refused_with_where_to_go() {
        let mut port = WrongPort::<LockApi>::new("this is the data port of node-1");
        let answer = port.call(http::Request::new(())).into_inner().expect("it answers");
        let status = Status::from_header_map(answer.headers()).expect("a gRPC status");
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert_eq!(status.message(), "this is the data port of node-1");
        let details = status.get_error_details();
        assert_eq!(details.error_info().map(|info| info.reason.as_str()), Some(WRONG_PORT));
        assert_eq!(<WrongPort<AdminApi> as NamedService>::NAME, "sharklock.v1.AdminService");
    }
}
