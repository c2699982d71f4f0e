"""A stock pipecat pipeline behind its Exotel serializer: what it hears it says back. No cloud service.

Writes what it heard to heard.pcm and what it was told at the start to start.json, both in the folder it is given.
"""

import json
import sys
from pathlib import Path

import uvicorn
from fastapi import FastAPI, WebSocket
from pipecat.frames.frames import EndFrame, Frame, InputAudioRawFrame, OutputAudioRawFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.runner.utils import parse_telephony_websocket
from pipecat.serializers.exotel import ExotelFrameSerializer
from pipecat.transports.websocket.fastapi import FastAPIWebsocketParams, FastAPIWebsocketTransport
from pipecat.workers.runner import WorkerRunner

RATE = 8000
folder = Path(sys.argv[1])
app = FastAPI()


class Echo(FrameProcessor):
    """Says back what it hears, piece by piece."""

    async def process_frame(self, frame: Frame, direction: FrameDirection):
        await super().process_frame(frame, direction)
        if isinstance(frame, InputAudioRawFrame):
            with (folder / "heard.pcm").open("ab") as heard:
                heard.write(frame.audio)
            await self.push_frame(OutputAudioRawFrame(frame.audio, frame.sample_rate, frame.num_channels))
        else:
            await self.push_frame(frame, direction)


@app.websocket("/bot")
async def bot(websocket: WebSocket):
    await websocket.accept()
    kind, call = await parse_telephony_websocket(websocket)
    told = {key: call.get(key) for key in ("stream_id", "call_id", "account_sid", "from", "to", "custom_parameters")}
    (folder / "start.json").write_text(json.dumps({"kind": kind, "call": told, "url": str(websocket.url)}))
    transport = FastAPIWebsocketTransport(
        websocket,
        FastAPIWebsocketParams(
            audio_in_enabled=True,
            audio_out_enabled=True,
            # Nothing but the person's own words, so that they can be compared.
            audio_out_auto_silence=False,
            serializer=ExotelFrameSerializer(stream_sid=call["stream_id"], call_sid=call["call_id"]),
        ),
    )
    pipeline = Pipeline([transport.input(), Echo(), transport.output()])
    worker = PipelineWorker(pipeline, params=PipelineParams(audio_in_sample_rate=RATE, audio_out_sample_rate=RATE))

    @transport.event_handler("on_client_disconnected")
    async def gone(_transport, _client):
        await worker.queue_frame(EndFrame())

    await WorkerRunner(handle_sigint=False).run(worker)
    (folder / "ended").touch()


uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="warning")
