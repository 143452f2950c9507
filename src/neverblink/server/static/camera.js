// This device's camera into a push stream: one JPEG, one reply, then the next.

const WIDTH = 640;

export async function push(stream, fps, onNumbers) {
  const media = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: WIDTH } }, audio: false });
  const video = Object.assign(document.createElement("video"), { srcObject: media, muted: true, playsInline: true });
  await video.play();
  const canvas = document.createElement("canvas");
  canvas.width = WIDTH;
  canvas.height = Math.round((WIDTH * video.videoHeight) / video.videoWidth);
  const socket = new WebSocket(`${location.origin.replace(/^http/, "ws")}/v1/streams/${stream}/push`);
  const numbers = { used: 0, dropped: 0, error: 0 };
  let next = performance.now();
  const send = () => {
    if (socket.readyState !== WebSocket.OPEN) return;
    canvas.getContext("2d").drawImage(video, 0, 0, canvas.width, canvas.height);
    canvas.toBlob((blob) => socket.readyState === WebSocket.OPEN && socket.send(blob), "image/jpeg", 0.8);
  };
  const stop = () => media.getTracks().forEach((track) => track.stop());
  socket.onopen = send;
  socket.onclose = stop;
  socket.onmessage = ({ data }) => {
    numbers[JSON.parse(data).result] += 1;
    onNumbers(numbers);
    next = Math.max(next + 1000 / fps, performance.now());
    setTimeout(send, next - performance.now());
  };
  return () => {
    stop();
    if (socket.readyState === WebSocket.OPEN) socket.send("end");
  };
}
