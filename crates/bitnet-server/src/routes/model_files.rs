//! `GET /v1/model_files`: what may be loaded, for administrators.

use std::path::PathBuf;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;

use crate::app::App;
use crate::error::{ApiError, ErrorCode};
use crate::model_manager::files::{self, FoundFile};

/// Lists the models in the configured directories, and which of the server's models each one is.
///
/// # Errors
/// [`ErrorCode::InternalError`] when looking panicked.
pub async fn list(State(app): State<Arc<App>>) -> Result<Json<ModelFileList>, ApiError> {
    // Directories are read from a disk.
    let listed = tokio::task::spawn_blocking(move || {
        let found = files::find(&app.manager.policy.directories);
        let origins = origins(&app);
        let known_as = |file: &FoundFile| {
            let own = origins.iter().filter(|(_, path)| *path == file.resolved);
            own.map(|(id, _)| id.clone()).collect()
        };
        ModelFileList {
            object: "list",
            data: found
                .files
                .into_iter()
                .map(|file| ListedFile {
                    model_ids: known_as(&file),
                    file,
                })
                .collect(),
            truncated: found.truncated,
            draining: app.is_draining(),
        }
    });
    let listed = listed.await.map_err(|_| {
        let message = "looking into the configured directories failed";
        ApiError::new(ErrorCode::InternalError, message)
    })?;
    Ok(Json(listed))
}

/// Where the known models come from, links resolved.
fn origins(app: &App) -> Vec<(String, PathBuf)> {
    let of = |id: String| {
        let origin = app.models.origin_of(&id)?;
        Some((id, origin.source.path()?.canonicalize().ok()?))
    };
    app.models.ids().into_iter().filter_map(of).collect()
}

/// The answer of [`list`].
#[derive(Debug, Serialize)]
pub struct ModelFileList {
    object: &'static str,
    data: Vec<ListedFile>,
    /// Whether there is more.
    truncated: bool,
    /// Whether the server ends, and takes no request any more.
    draining: bool,
}

/// A model on disk, and what it is called.
#[derive(Debug, Serialize)]
pub struct ListedFile {
    #[serde(flatten)]
    file: FoundFile,
    /// Models that are loaded from it, or would be.
    model_ids: Vec<String>,
}
