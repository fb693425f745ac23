"""Segment images and videos: ``python demo.py input=FILE|FOLDER|GLOB|VIDEO|camera:0``; ``python demo.py --help``."""

from icnet.config import DemoConfig
from icnet.launch import command


@command.script("demo", DemoConfig)
def main(config: DemoConfig) -> None:
    """Open the model, segment every input and say how fast."""
    from pathlib import Path

    import icnet
    from icnet.deploy.demo import Demo, find_inputs
    from icnet.deploy.inference import Inference
    from icnet.deploy.locate import find_checkpoint
    from icnet.deploy.shipped import usual_side

    if not config.input:
        raise icnet.UserError(
            "input is not given; give an image, video, folder or quoted glob, such as input=photo.jpg"
        )
    output = Path(config.output).expanduser()
    inputs = find_inputs(config.input, output)
    checkpoint = find_checkpoint(config.ckpt, or_shipped=True)
    model = icnet.load(checkpoint, config.device, **vars(config.runtime))
    side = config.eval.short_side or usual_side(checkpoint)
    model.inference = Inference(**{**vars(config.eval), "short_side": side})
    demo = Demo(model, output, config.alpha, config.smooth, config.confidence, config.strict, config.frames)
    try:
        demo.run(inputs)
    finally:  # what was done before a mistake counts too
        if demo.images:
            print(demo.summary())


if __name__ == "__main__":
    main()
