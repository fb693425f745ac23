"""Segment images and videos: ``python demo.py input=FILE|FOLDER|GLOB|VIDEO``; ``python demo.py --help``."""

from icnet.config import DemoConfig
from icnet.launch import command


@command.script("demo", DemoConfig)
def main(config: DemoConfig) -> None:
    """Open the model, segment every file and say how fast."""
    from pathlib import Path

    from icnet.deploy.demo import Demo, find_inputs
    from icnet.deploy.inference import Inference
    from icnet.deploy.locate import choose_device, find_checkpoint
    from icnet.deploy.segmenter import open_segmenter
    from icnet.errors import UserError

    if not config.input:
        raise UserError("input is not given; give an image, video, folder or quoted glob, such as input=photo.jpg")
    output = Path(config.output).expanduser()
    inputs = find_inputs(config.input, output)
    device = choose_device(config.device)
    segmenter = open_segmenter(find_checkpoint(config.ckpt), device)
    inference = Inference(config.eval.scales, config.eval.flip, config.eval.sliding_window)
    demo = Demo(segmenter, inference, device, output, config.alpha)
    demo.run(inputs)
    print(demo.summary())


if __name__ == "__main__":
    main()
