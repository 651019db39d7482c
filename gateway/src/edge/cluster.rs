//! The cluster that a gateway serves. The first that its masters or its own store name is the one,
//! for as long as the process lives: nothing is taken from another, whose locks are others. Every
//! answer names it, in the metadata [`CLUSTER_ID`], so that clients can do the same.

use std::{
    fmt,
    pin::Pin,
    sync::{Arc, OnceLock, PoisonError, RwLock},
    task::{Context, Poll},
};

use sharklock_proto::{CLUSTER_ID, CLUSTER_NAME, ClusterId};
use tonic::codegen::http::{HeaderValue, Request, Response, header::HeaderName};
use tower::{Layer, Service};

const ID: HeaderName = HeaderName::from_static(CLUSTER_ID);
const NAME: HeaderName = HeaderName::from_static(CLUSTER_NAME);

/// The cluster of this gateway. Its id is missing until somebody has told one, and never changes then.
#[derive(Debug, Default)]
pub(super) struct Served {
    cluster: OnceLock<Cluster>,
    /// What people call it, which they may change; behind a lock that is held to copy it.
    name: RwLock<Option<HeaderValue>>,
}

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
        let served = self.cluster.get_or_init(|| {
            let header = HeaderValue::from_str(&id).expect("hex is ASCII");
            Cluster { id: id.clone(), header }
        });
        if served.id == id {
            return Ok(());
        }
        let name = self.name().and_then(|name| Some(format!(" ({})", name.to_str().ok()?)));
        let served = format!("{}{}", served.id, name.unwrap_or_default());
        Err(OtherCluster { served: Some(served), other: id })
    }

    /// Its id, as hex; None: nobody has named one yet.
    pub(super) fn id(&self) -> Option<&str> {
        self.cluster.get().map(|cluster| &*cluster.id)
    }

    /// People call it so.
    pub(super) fn call(&self, name: &str) {
        // One that the configuration would refuse is nobody's name.
        let Some(name) = HeaderValue::from_str(name).ok().filter(|name| !name.is_empty()) else {
            return;
        };
        if self.name().as_ref() != Some(&name) {
            // A panic cannot leave the name half written.
            *self.name.write().unwrap_or_else(PoisonError::into_inner) = Some(name);
        }
    }

    fn name(&self) -> Option<HeaderValue> {
        self.name.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Puts the cluster's id and name into the metadata of every answer, also of refusals.
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
            if let Some(cluster) = served.cluster.get() {
                answer.headers_mut().insert(ID, cluster.header.clone());
            }
            if let Some(name) = served.name() {
                answer.headers_mut().insert(NAME, name);
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
        assert!(named.headers().get(CLUSTER_NAME).is_none());
        served.call("prod");
        let named = service.call(Request::new(())).await.expect("it answers");
        assert_eq!(named.headers()[CLUSTER_NAME], "prod");
    }
}
