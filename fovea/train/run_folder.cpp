#include "fovea/train/run_folder.h"

#include <fmt/format.h>

#include <system_error>

#include "fovea/formats/bundle.h"

namespace fovea {

namespace fs = std::filesystem;

FolderLock open_run_folder(const TrainRequest& request) {
  const fs::path& out = request.out;
  std::error_code ec;
  if (request.resume && !fs::exists(out))
    throw Error(ErrorCode::not_found,
                fmt::format("[train] there is no run in {}; leave out --resume to begin one",
                            out.string()));
  fs::create_directories(out, ec);
  if (ec)
    throw Error(ErrorCode::io, fmt::format("[train] the folder {} cannot be made: {} (choose "
                                           "another --out)",
                                           out.string(), ec.message()));
  // Before anything is looked at: what another training has there is about to change.
  FolderLock lock(out, "train");
  const bool saved = fs::exists(out / kCheckpointFile), bundle = is_bundle(out);
  if (request.resume && bundle && !saved)
    throw Error(ErrorCode::not_found,
                fmt::format("[train] {} holds a model but no checkpoint to go on from; choose "
                            "another --out (--init {} begins with its weights)",
                            out.string(), out.string()));
  if ((saved || bundle) && !request.resume && !request.overwrite)
    throw Error(ErrorCode::invalid_argument,
                fmt::format("[train] {} holds a run already; --resume goes on with it, --overwrite "
                            "throws it away, --out takes another folder",
                            out.string()));
  // What a run that was killed in the middle of a save has left.
  for (auto& entry : fs::directory_iterator(out, ec))
    if (const std::string name = entry.path().filename();
        name.starts_with(".fovea-") && name.ends_with(".tmp"))
      fs::remove_all(entry.path(), ec);
  return lock;
}

}  // namespace fovea
