//! Probes on a port of their own, answered by a thread of their own.
//!
//! On the port that everybody uses a probe waits for a turn among all that the server does, and when that is too much
//! it comes late although nothing is wrong. Here one thread with a small runtime does nothing else: it sleeps until
//! somebody asks, so the system lets it run at once however busy the processors are, and no lock that it takes is held
//! for longer than a copy. It answers from before the first model is loaded until the process has drained.
//!
//! Handlers and guard are those of the other port, so the answers and who may have them are the same. It speaks plain
//! HTTP, for probes have no certificates: where the other port is encrypted, nothing that could need a key is here
//! ([`routes::health_router`](crate::routes::health_router)).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};

use crate::app::App;
use crate::http1::{Http, ServingPhase};
use crate::seats::Seats;
use crate::server::{ACCEPT_PAUSE, is_of_a_client};
use crate::tally::Tally;

/// A thread that answers probes; dropping this ends it.
#[derive(Debug)]
pub struct HealthListener {
    address: SocketAddr,
    phase: watch::Sender<ServingPhase>,
    thread: Option<JoinHandle<()>>,
}

/// Connections at once: a probe is over in a millisecond.
pub const MAX_CONNECTIONS: usize = 64;

/// Time for a whole connection, so that those who connect and say nothing leave room for the others.
const PATIENCE: Duration = Duration::from_secs(5);

impl HealthListener {
    /// Answers on `socket` by `router` from now on.
    ///
    /// # Errors
    /// When the operating system has no thread to give, or does not take the socket.
    pub fn start(
        socket: std::net::TcpListener,
        app: Arc<App>,
        router: Router,
    ) -> io::Result<HealthListener> {
        let address = socket.local_addr()?;
        socket.set_nonblocking(true)?;
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let listener = {
            let _entered = runtime.enter();
            TcpListener::from_std(socket)?
        };
        // Each connection ends with its answer: idle ones would take the places of others.
        let (phase, phases) = watch::channel(ServingPhase::Closing);
        let http = Http {
            app,
            router,
            tls: None,
            under_way: Tally::default(),
            phase: phases,
        };
        let thread = std::thread::Builder::new()
            .name("health".into())
            .spawn(move || run(&runtime, &listener, Arc::new(http)))?;
        Ok(HealthListener {
            address,
            phase,
            thread: Some(thread),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops listening, so that another process can, and waits for nothing.
    pub fn close(&self) {
        self.phase.send_replace(ServingPhase::Ending);
    }
}

impl Drop for HealthListener {
    fn drop(&mut self) {
        self.close();
        if let Some(thread) = self.thread.take() {
            // A panic of it has been told, and there is nobody left to answer.
            let _ = thread.join();
        }
    }
}

fn run(runtime: &Runtime, listener: &TcpListener, http: Arc<Http>) {
    let mut phase = http.phase.clone();
    let ended = async move {
        // The channel closes with the owner, which means the same.
        let _ = phase.wait_for(|&phase| phase == ServingPhase::Ending).await;
    };
    runtime.block_on(async {
        tokio::select! {
            () = ended => {}
            () = accept(listener, http) => {}
        }
    });
}

async fn accept(listener: &TcpListener, http: Arc<Http>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let place = places.clone().acquire_owned().await;
        let place = place.expect("nobody closes the semaphore");
        match listener.accept().await {
            Ok((stream, peer)) => {
                let http = http.clone();
                // Whoever takes longer is no probe, so nobody need make room.
                let seat = Seats::default().enter();
                tokio::spawn(async move {
                    let _ = timeout(PATIENCE, http.serve(stream, peer, seat)).await;
                    drop(place);
                });
            }
            Err(error) if is_of_a_client(&error) => {}
            Err(error) => {
                tracing::debug!(%error, "a probe cannot be accepted, and waits");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
