"""A camera for tests: an RTSP server with a moving test picture. Runs under Debian's own python3 (gi, GStreamer).

python3 rtsp_server.py PORT [FPS]: prints "ready", then serves rtsp://127.0.0.1:PORT/cam until it is killed.
"""

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402 - the versions must be set first

Gst.init(None)
port, fps = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "15"
server = GstRtspServer.RTSPServer()
server.set_address("127.0.0.1")
server.set_service(port)
factory = GstRtspServer.RTSPMediaFactory()
factory.set_launch(
    f"( videotestsrc is-live=true pattern=ball ! video/x-raw,width=160,height=120,framerate={fps}/1"
    " ! x264enc tune=zerolatency speed-preset=ultrafast key-int-max=15 ! rtph264pay name=pay0 pt=96 config-interval=1 )"
)
factory.set_shared(True)
server.get_mount_points().add_factory("/cam", factory)
server.attach(None)
print("ready", flush=True)
GLib.MainLoop().run()
