//! Accepting connections, and ending in good order.
//!
//! A server that drains goes on accepting: new requests are told to go elsewhere (503 with `Retry-After`) and probes
//! see why, until those under way are answered; then connections end, and the listening socket with them. A server
//! whose socket lives on in another process stops accepting at once: clients wait in the socket's queue for that
//! process, and whoever is connected gets its answers here. Whoever is still there when the time is over, or at a
//! second signal, is cut off. The port of administrators, where they have one, is open as long as requests are told to go
//! elsewhere.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

use crate::app::App;
use crate::auth::Guard;
use crate::http1::{Http, ServingPhase};
use crate::listener::Listener;
use crate::peers::{PeerPlace, Peers};
use crate::routes::{self, PortUse};
use crate::seats::Seats;
use crate::tally::Tally;
use crate::tls::TlsIdentity;

/// A bound server.
pub struct Server {
    app: Arc<App>,
    router: Router,
    listener: Listener,
    admin: Option<(Listener, Router)>,
    tls: Option<Arc<TlsIdentity>>,
}

/// Connections of the port for administrators, open at once: few people and their scripts, who get in also when the
/// other port is full.
pub const ADMIN_CONNECTIONS: usize = 64;

/// Why a server ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It was told to, and nobody takes its place here.
    Told,
    /// Another process accepts on its socket.
    HandedOver,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// Every request under way was answered.
    Drained,
    /// Some were cut off, when time was over or at the second signal.
    CutOff {
        /// How many.
        requests: usize,
    },
}

/// The exit code of a process whose server was [`Stopped::CutOff`]: who restarts servers by a script wants to know that
/// the time to drain was too short.
pub const CUT_OFF_EXIT: u8 = 5;

/// Pause after an accept that failed for want of descriptors or memory: trying again at once would spin.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long requests that are cut off may take to say so: an error is one small write.
const FAREWELL: Duration = Duration::from_secs(1);

/// How long connections without a request may take to end: twice what a client may linger.
const CLOSING: Duration = Duration::from_secs(2);

/// How long a connection that is told to make room has for it before the next one is told.
const MAKING_ROOM: Duration = Duration::from_millis(20);

impl Server {
    /// Binds `address`; port 0 takes a free one.
    ///
    /// # Errors
    /// When the address is taken or not ours.
    pub async fn bind(app: Arc<App>, guard: Arc<Guard>, address: SocketAddr) -> io::Result<Server> {
        let listener = Listener::bind(address).await?;
        Ok(Server::on(app, guard, listener, None, None))
    }

    /// A server on a socket that listens, and perhaps another one `admin` that administrators have to themselves, with
    /// a certificate if it speaks TLS.
    pub fn on(
        app: Arc<App>,
        guard: Arc<Guard>,
        listener: Listener,
        admin: Option<Listener>,
        tls: Option<Arc<TlsIdentity>>,
    ) -> Server {
        let router = |usage| routes::router(app.clone(), guard.clone(), usage);
        let usage = match admin {
            Some(_) => PortUse::Clients,
            None => PortUse::Everything,
        };
        Server {
            router: router(usage),
            listener,
            admin: admin.map(|admin| (admin, router(PortUse::Everything))),
            app,
            tls,
        }
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the operating system does not say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.socket.local_addr()
    }

    /// Serves until `stop` resolves, then drains; `hurry` ends the draining.
    pub async fn run(
        self,
        stop: impl Future<Output = Ending>,
        hurry: impl Future<Output = ()>,
    ) -> Stopped {
        let (phase, phases) = watch::channel(ServingPhase::Serving);
        let app = self.app;
        let under_way = Tally::default();
        let door = |listener, router, n_places, n_of_a_peer| Door {
            listener,
            places: Arc::new(Semaphore::new(n_places)),
            peers: Peers::new(n_of_a_peer),
            seats: Seats::default(),
            waiting: None,
            connections: Tally::default(),
            http: Arc::new(Http {
                app: app.clone(),
                router,
                tls: self.tls.clone(),
                under_way: under_way.clone(),
                phase: phases.clone(),
            }),
            is_failing: false,
        };
        let limits = &app.limits;
        let (n_places, n_of_a_peer) = (limits.max_connections, limits.max_connections_per_peer);
        let mut admin = self.admin.map(|(listener, router)| {
            AdminDoor::open(door(listener, router, ADMIN_CONNECTIONS, n_of_a_peer))
        });
        let mut door = door(self.listener, self.router, n_places, n_of_a_peer);
        app.start_accepting();
        let ending = door.accept_until(stop).await;

        let over = Instant::now() + app.limits.drain_timeout;
        let mut cut_off = pin!(async {
            tokio::select! {
                () = sleep_until(over) => {}
                () = hurry => {}
            }
        });
        let connections = [
            Some(&door.connections),
            admin.as_ref().map(|a| &a.connections),
        ];
        let connections: Vec<Tally> = connections.into_iter().flatten().cloned().collect();
        let all_end = async || {
            for of_a_port in &connections {
                of_a_port.empty().await;
            }
        };
        let in_time = if ending == Ending::HandedOver || door.listener.outlives_us {
            door.let_in_who_waits();
            drop(door);
            phase.send_replace(ServingPhase::Closing);
            if let Some(admin) = admin.take() {
                admin.close().await;
            }
            // Also those without a request: a client may be sending its next one.
            is_first(all_end(), cut_off.as_mut()).await
        } else {
            // In this order: whatever is not refused is waited for.
            app.start_draining();
            phase.send_replace(ServingPhase::Closing);
            let done = is_first(under_way.empty(), cut_off.as_mut());
            let in_time = door.accept_until(done).await;
            door.empty_queue();
            drop(door); // nobody comes in any more who would find nobody
            if let Some(admin) = admin.take() {
                admin.close().await;
            }
            in_time
        };
        let late = match in_time {
            true => 0,
            false => under_way.count(),
        };
        if late > 0 {
            // Their clients are still told why they end, and how far they came.
            for model in app.models.everywhere() {
                model.handle.shut_down();
            }
            phase.send_replace(ServingPhase::Ending);
            let _ = tokio::time::timeout(FAREWELL, all_end()).await; // then they are cut off
            return Stopped::CutOff { requests: late };
        }
        phase.send_replace(ServingPhase::Ending);
        if in_time {
            // A connection on which half a request has come ends when its time is over, and is not waited for.
            let nobody_waits = async {
                loop {
                    sleep(CLOSING).await;
                    if under_way.count() == 0 {
                        return;
                    }
                }
            };
            tokio::select! {
                () = all_end() => {}
                () = nobody_waits => {}
                () = cut_off => {}
            }
        }
        match under_way.count() {
            0 => Stopped::Drained,
            requests => Stopped::CutOff { requests },
        }
    }
}

/// The door of administrators, which is open until the other one has no request any more: they see a server drain.
struct AdminDoor {
    close: oneshot::Sender<()>,
    accepting: JoinHandle<()>,
    connections: Tally,
}

impl AdminDoor {
    fn open(mut door: Door) -> AdminDoor {
        let (close, closed) = oneshot::channel();
        AdminDoor {
            close,
            connections: door.connections.clone(),
            accepting: tokio::spawn(async move {
                let _ = door.accept_until(closed).await; // told, or left alone
                // Those in the queue too: a next process need not have this port.
                door.let_in_who_waits();
                door.empty_queue();
            }),
        }
    }

    /// Accepts no more.
    async fn close(self) {
        let _ = self.close.send(()); // it waits for nothing else
        let _ = self.accepting.await; // a panic of it has been told
    }
}

/// Waits for one of the two, and says whether it was this one.
async fn is_first(
    this: impl Future<Output = ()>,
    other: Pin<&mut impl Future<Output = ()>>,
) -> bool {
    tokio::select! {
        () = this => true,
        () = other => false,
    }
}

/// Whether a client left before it was accepted: nothing is wrong here.
pub(crate) fn is_of_a_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionReset)
}

/// Who has been accepted.
struct Client {
    stream: TcpStream,
    peer: SocketAddr,
    place: PeerPlace,
}

/// Where connections come in.
struct Door {
    listener: Listener,
    places: Arc<Semaphore>,
    peers: Peers,
    seats: Seats,
    waiting: Option<Client>, // accepted, without a place
    connections: Tally,
    http: Arc<Http>,
    is_failing: bool, // said once, until it works again
}

impl Door {
    /// Takes connections until `stop` resolves.
    async fn accept_until<T>(&mut self, stop: impl Future<Output = T>) -> T {
        let mut stop = pin!(stop);
        loop {
            let accepted = tokio::select! {
                biased;
                stopped = &mut stop => return stopped,
                accepted = self.accept() => accepted,
            };
            match accepted {
                Ok((client, place)) => {
                    self.is_failing = false;
                    self.spawn(client, place);
                }
                Err(error) if is_of_a_client(&error) => {}
                Err(error) => {
                    if !std::mem::replace(&mut self.is_failing, true) {
                        tracing::warn!(%error, "connections cannot be accepted, and wait");
                    }
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// The next client, with a place. One waits for it; past that, they wait in the system's queue. What is dropped
    /// half-way loses nobody.
    async fn accept(&mut self) -> io::Result<(Client, OwnedSemaphorePermit)> {
        while self.waiting.is_none() {
            let (stream, peer) = self.listener.socket.accept().await?;
            self.waiting = self.meet(stream, peer);
        }
        let place = self.place().await;
        let client = self.waiting.take().expect("it is taken here alone");
        Ok((client, place))
    }

    /// A place: a free one, or that of whoever has waited longest for a request.
    async fn place(&self) -> OwnedSemaphorePermit {
        loop {
            if let Ok(place) = self.places.clone().try_acquire_owned() {
                return place;
            }
            self.seats.make_room();
            tokio::select! {
                place = self.places.clone().acquire_owned() => {
                    return place.expect("nobody closes the semaphore");
                }
                () = sleep(MAKING_ROOM) => {}
            }
        }
    }

    /// Takes those who are in the queue: closing the socket would reset them.
    fn empty_queue(&mut self) {
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        while let Ok(place) = self.places.clone().try_acquire_owned() {
            while self.waiting.is_none() {
                let accepted = self.listener.socket.poll_accept(&mut cx);
                let std::task::Poll::Ready(Ok((stream, peer))) = accepted else {
                    return;
                };
                self.waiting = self.meet(stream, peer);
            }
            if let Some(client) = self.waiting.take() {
                self.spawn(client, place);
            }
        }
    }

    /// Serves whoever waits for a place, past the limit: the next process cannot.
    fn let_in_who_waits(&mut self) {
        if let Some(client) = self.waiting.take() {
            self.places.add_permits(1);
            if let Ok(place) = self.places.clone().try_acquire_owned() {
                self.spawn(client, place);
            }
        }
    }

    /// Whoever has come, unless its address has as many connections as it may.
    fn meet(&self, stream: TcpStream, peer: SocketAddr) -> Option<Client> {
        let Some(place) = self.peers.enter(peer.ip()) else {
            tracing::debug!(%peer, "one connection too many, closed");
            return None;
        };
        Some(Client {
            stream,
            peer,
            place,
        })
    }

    fn spawn(&self, client: Client, place: OwnedSemaphorePermit) {
        let http = self.http.clone();
        let seat = self.seats.enter();
        let held = (place, client.place, self.connections.enter());
        tokio::spawn(async move {
            http.serve(client.stream, client.peer, seat).await;
            drop(held);
        });
    }
}
