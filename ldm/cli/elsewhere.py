"""Words of other tools: which command or option is meant here."""

_NO_PICTURES = (
    "there is no img2img command yet; in Python model.encode(picture) and "
    "model.steps(request, start=Start(latents, index)) of ldm.generation.draw begin at a picture"
)

COMMANDS = {
    **dict.fromkeys(("txt2img", "draw", "sample", "dream", "t2i"), "it is: ldm generate PROMPT"),
    **dict.fromkeys(("img2img", "inpaint", "i2i"), _NO_PICTURES),
    **dict.fromkeys(("ui", "webui", "gui", "serve", "web"), "there is no user interface; it is: ldm generate PROMPT"),
    "info": "it is: ldm inspect FILE",
    "evaluate": "it is: ldm eval MODEL",
    "finetune": "it is: ldm train own_pictures",
    "version": "it is: ldm --version",
    "help": "it is: ldm --help",
}
OPTIONS = {
    **dict.fromkeys(("--init-image", "--init-img", "--image", "--strength"), _NO_PICTURES),
    "--mask": f"{_NO_PICTURES}; prompts for parts of a picture are --region MASK.png=PROMPT",
    "--negative": "it is --negative-prompt",
    "--num-inference-steps": "it is --steps",
    "--guidance-scale": "it is --cfg-scale",
    "--scheduler": "it is --sampler, and --schedule for the spacing of its steps",
    "--outdir": "it is --output",
    "--num-images": "it is --n",
    "--count": "it is --n",
    "--torch-dtype": "it is --dtype",
    "--ckpt": "it is --model",
    "--checkpoint": "it is --model",
}
