//! Accepting connections, and ending in good order.
//!
//! The end has three steps: no request is taken any more (`/health/ready` says so), no connection is accepted, and
//! requests under way are given time. Whoever is still there after that, or at a second signal, is cut off.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, Request};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower::ServiceExt;

use crate::app::App;
use crate::auth::Guard;
use crate::connection::Connection;
use crate::routes;

/// A bound server.
pub struct Server {
    app: Arc<App>,
    router: Router,
    listener: TcpListener,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// Every request under way was answered.
    Drained,
    /// Some were cut off, when time was over or at the second signal.
    CutOff,
}

/// Pause after an accept that failed for want of descriptors or memory: trying again at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Bytes of a connection's read buffer, and so of its headers.
const HEADER_BYTES: usize = 64 << 10;

/// Headers of a request.
const MAX_HEADERS: usize = 100;

impl Server {
    /// Binds `address`; port 0 takes a free one.
    ///
    /// # Errors
    /// When the address is taken or not ours.
    pub async fn bind(app: Arc<App>, guard: Arc<Guard>, address: SocketAddr) -> io::Result<Server> {
        Ok(Server {
            router: routes::router(app.clone(), guard),
            listener: TcpListener::bind(address).await?,
            app,
        })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the operating system does not say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop` resolves, then drains; `hurry` ends the draining.
    pub async fn run(
        self,
        stop: impl Future<Output = ()>,
        hurry: impl Future<Output = ()>,
    ) -> Stopped {
        let Server {
            app,
            router,
            listener,
        } = self;
        let connections = GracefulShutdown::new();
        let places = Arc::new(Semaphore::new(app.limits.max_connections));
        let mut stop = pin!(stop);
        loop {
            // A place first: past the limit, clients wait in the system's queue.
            let accepted = tokio::select! {
                biased;
                () = &mut stop => break,
                accepted = accept(&listener, &places) => accepted,
            };
            let (stream, peer, place) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            // Tokens are small and each should leave at once.
            let _ = stream.set_nodelay(true);
            let router = router.clone();
            let service = service_fn(move |mut request: Request<Incoming>| {
                request.extensions_mut().insert(ConnectInfo(peer));
                router.clone().oneshot(request.map(axum::body::Body::new))
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(app.limits.header_timeout)
                .max_headers(MAX_HEADERS)
                .max_buf_size(HEADER_BYTES)
                .serve_connection(
                    TokioIo::new(Connection::new(stream, app.limits.write_timeout)),
                    service,
                );
            let connection = connections.watch(connection);
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "a connection broke off");
                }
                drop(place);
            });
        }
        app.start_draining();
        drop(listener);
        tracing::info!("draining");
        tokio::select! {
            () = connections.shutdown() => Stopped::Drained,
            () = tokio::time::sleep(app.limits.drain_timeout) => Stopped::CutOff,
            () = hurry => Stopped::CutOff,
        }
    }
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let place = places
        .clone()
        .acquire_owned()
        .await
        .expect("nobody closes the semaphore");
    let (stream, peer) = listener.accept().await?;
    Ok((stream, peer, place))
}
