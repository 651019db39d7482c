//! The cluster that a gateway serves. The first that its masters or its own store name is the one,
//! for as long as the process lives: nothing is taken from another, whose locks are others. Every
//! answer names it, in the metadata [`CLUSTER_ID`], so that clients can do the same.

use std::{
    fmt,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
};

use sharklock_proto::{CLUSTER_ID, ClusterId};
use tonic::codegen::http::{HeaderValue, Request, Response, header::HeaderName};
use tower::{Layer, Service};

const NAME: HeaderName = HeaderName::from_static(CLUSTER_ID);

/// The cluster of this gateway. It is empty until somebody has named one, and never changes then.
#[derive(Debug, Default)]
pub(super) struct Served(OnceLock<Cluster>);

#[derive(Debug)]
struct Cluster {
    /// As hex.
    id: String,
    header: HeaderValue,
}

/// Somebody speaks for another cluster, or for none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OtherCluster {
    served: Option<String>,
    other: String,
}

impl fmt::Display for OtherCluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { served, other } = self;
        match served {
            Some(served) => write!(f, "cluster {other}, and this gateway serves cluster {served}"),
            None => write!(f, "{other}, which is no cluster's id"),
        }
    }
}

impl Served {
    /// Somebody speaks for this cluster.
    pub(super) fn take(&self, id: &[u8]) -> Result<(), OtherCluster> {
        let Ok(id) = ClusterId::from_wire(id) else {
            return Err(OtherCluster { served: None, other: format!("{id:02x?}") });
        };
        let id = id.to_string();
        let served = self.0.get_or_init(|| {
            let header = HeaderValue::from_str(&id).expect("hex is ASCII");
            Cluster { id: id.clone(), header }
        });
        if served.id == id {
            return Ok(());
        }
        Err(OtherCluster { served: Some(served.id.clone()), other: id })
    }

    /// Its id, as hex; None: nobody has named one yet.
    pub(super) fn id(&self) -> Option<&str> {
        self.0.get().map(|cluster| &*cluster.id)
    }
}

/// Puts the cluster's id into the metadata of every answer, also of refusals.
#[derive(Clone)]
pub(super) struct NameCluster(pub(super) Arc<Served>);

impl<S> Layer<S> for NameCluster {
    type Service = Naming<S>;

    fn layer(&self, inner: S) -> Naming<S> {
        Naming { inner, served: self.0.clone() }
    }
}

/// See [`NameCluster`].
#[derive(Clone)]
pub(super) struct Naming<S> {
    inner: S,
    served: Arc<Served>,
}

impl<S, Q, R> Service<Request<Q>> for Naming<S>
where
    S: Service<Request<Q>, Response = Response<R>>,
    S::Future: Send + 'static,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Q>) -> Self::Future {
        let (answering, served) = (self.inner.call(request), self.served.clone());
        Box::pin(async move {
            let mut answer = answering.await?;
            // A store or master that answered has heard of its cluster before.
            if let Some(cluster) = served.0.get() {
                answer.headers_mut().insert(NAME, cluster.header.clone());
            }
            Ok(answer)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_cluster_is_the_one() {
        let served = Served::default();
        assert_eq!(served.id(), None);
        let none = served.take(&[1; 15]).expect_err("it is too short").to_string();
        assert!(none.ends_with("which is no cluster's id"), "{none}");
        assert_eq!(served.take(&[0xab; 16]), Ok(()));
        assert_eq!(served.take(&[0xab; 16]), Ok(()));
        let other = served.take(&[0xcd; 16]).expect_err("it is another").to_string();
        let (first, second) = ("cd".repeat(16), "ab".repeat(16));
        assert_eq!(other, format!("cluster {first}, and this gateway serves cluster {second}"));
        assert_eq!(served.id(), Some(&*second));
    }

    #[tokio::test]
    async fn every_answer_names_the_cluster_once_it_is_known() {
        let served = Arc::new(Served::default());
        let answer = tower::service_fn(async |_: Request<()>| {
            Ok::<_, std::convert::Infallible>(Response::new(()))
        });
        let mut service = NameCluster(served.clone()).layer(answer);
        let unnamed = service.call(Request::new(())).await.expect("it answers");
        assert!(unnamed.headers().get(CLUSTER_ID).is_none());
        served.take(&[0xab; 16]).expect("it is the first");
        let named = service.call(Request::new(())).await.expect("it answers");
        assert_eq!(named.headers()[CLUSTER_ID], "ab".repeat(16));
    }
}
