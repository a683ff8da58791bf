"""Words of other tools: which command or option is meant here."""

_PICTURES = "pictures are put in with ldm edit, ldm inpaint or ldm outpaint IMAGE PROMPT"

COMMANDS = {
    **dict.fromkeys(("txt2img", "draw", "sample", "dream", "t2i"), "it is: ldm generate PROMPT"),
    **dict.fromkeys(("img2img", "i2i", "image2image"), "it is: ldm edit IMAGE PROMPT --strength 0.7"),
    **dict.fromkeys(("fill", "uncrop"), "it is: ldm inpaint IMAGE PROMPT --mask MASK, or ldm outpaint IMAGE PROMPT"),
    **dict.fromkeys(("ui", "webui", "gui", "serve", "web"), "there is no user interface; it is: ldm generate PROMPT"),
    "info": "it is: ldm inspect FILE",
    "evaluate": "it is: ldm eval MODEL",
    "finetune": "it is: ldm train own_pictures",
    "version": "it is: ldm --version",
    "help": "it is: ldm --help",
}
OPTIONS = {
    **dict.fromkeys(("--init-image", "--init-img", "--image", "--strength"), _PICTURES),
    "--denoising-strength": "it is --strength, of ldm edit IMAGE PROMPT",
    "--mask-image": "it is --mask, of ldm inpaint IMAGE PROMPT",
    "--mask": f"{_PICTURES}; prompts for parts of a picture are --region MASK.png=PROMPT",
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
