"""Recipes of other tools, in the layouts that they publish."""

import json
import random

import pytest

from ldm.io.metadata.foreign_recipes import foreign_recipe

# The layout of AUTOMATIC1111/stable-diffusion-webui, `processing.create_infotext`; the prompt has two lines.
A1111 = """a (red:1.2) fox, \\(oil\\)
second line
Negative prompt: blurry, text
Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 6.5, Seed: 4294967295, Size: 512x768, \
Model hash: 6ce0161689, Model: v1-5-pruned-emaonly, Clip skip: 2, \
Lora hashes: "style: 1a2b, other: 3c4d", Version: v1.10.1"""

COMFY = {
    "3": {
        "class_type": "KSampler",
        "inputs": {
            "seed": 7,
            "steps": 20,
            "cfg": 8.0,
            "sampler_name": "dpmpp_2m",
            "scheduler": "karras",
            "denoise": 1.0,
            "model": ["10", 0],
            "positive": ["6", 0],
            "negative": ["7", 0],
            "latent_image": ["5", 0],
        },
    },
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "v1-5.safetensors"}},
    "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 640, "height": 512, "batch_size": 1}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a fox", "clip": ["11", 0]}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "blurry", "clip": ["11", 0]}},
    "10": {
        "class_type": "LoraLoader",
        "inputs": {"lora_name": "ink.safetensors", "strength_model": 0.8, "model": ["4", 0], "clip": ["4", 1]},
    },
    "11": {"class_type": "CLIPSetLastLayer", "inputs": {"stop_at_clip_layer": -2, "clip": ["10", 1]}},
}

INVOKE = {
    "app_version": "4.2.0",
    "generation_mode": "txt2img",
    "positive_prompt": "a fox",
    "negative_prompt": "blurry",
    "width": 512,
    "height": 512,
    "seed": 0,
    "cfg_scale": 7.5,
    "steps": 30,
    "scheduler": "euler_a",
    "clip_skip": 1,
    "model": {"name": "sd-1.5", "base": "sd-1"},
    "loras": [{"weight": 0.75}],
}


def test_a1111_parameters_are_read():
    recipe = foreign_recipe({"parameters": A1111})
    assert recipe is not None and recipe.tool == "A1111"
    assert recipe.values == {
        "prompt": "a (red:1.2) fox, \\(oil\\)\nsecond line",
        "negative_prompt": "blurry, text",
        "num_inference_steps": 20,
        "sampler": "DPM++ 2M",
        "schedule": "Karras",
        "guidance_scale": 6.5,
        "seed": 4294967295,
        "width": 512,
        "height": 768,
        "model": "v1-5-pruned-emaonly",
        "clip_skip": 1,
    }
    assert recipe.unused == {"Model hash": "6ce0161689", "Lora hashes": "style: 1a2b, other: 3c4d"}


def test_a1111_text_without_a_parameter_line_is_all_prompt():
    recipe = foreign_recipe({"parameters": "a fox: red, blue"})
    assert recipe is not None and recipe.values == {"prompt": "a fox: red, blue", "negative_prompt": ""}


def test_comfy_graph_is_followed_from_the_sampler():
    recipe = foreign_recipe({"prompt": json.dumps(COMFY), "workflow": "{}"})
    assert recipe is not None and recipe.tool == "ComfyUI"
    assert recipe.values == {
        "seed": 7,
        "num_inference_steps": 20,
        "guidance_scale": 8.0,
        "sampler": "dpmpp_2m",
        "schedule": "karras",
        "prompt": "a fox",
        "negative_prompt": "blurry",
        "width": 640,
        "height": 512,
        "model": "v1-5.safetensors",
        "clip_skip": 1,
    }
    assert recipe.unused == {"lora": "ink.safetensors at 0.8"}


def test_comfy_says_what_it_cannot_follow():
    graph = json.loads(json.dumps(COMFY))
    graph["3"]["inputs"] |= {"denoise": 0.5, "steps": ["9", 0], "latent_image": ["12", 0]}
    graph["12"] = {"class_type": "VAEEncode", "inputs": {"pixels": ["13", 0]}}
    recipe = foreign_recipe({"prompt": json.dumps(graph)})
    assert recipe is not None and "num_inference_steps" not in recipe.values and "width" not in recipe.values
    assert {"denoise", "steps", "latent_image"} <= recipe.unused.keys()
    assert recipe.unused["latent_image"] == "VAEEncode"


def test_a_loop_in_a_comfy_graph_ends():
    graph = json.loads(json.dumps(COMFY))
    graph["4"]["inputs"]["model"] = ["10", 0]
    assert foreign_recipe({"prompt": json.dumps(graph)}) is not None


def test_invoke_metadata_is_read():
    recipe = foreign_recipe({"invokeai_metadata": json.dumps(INVOKE)})
    assert recipe is not None and recipe.tool == "InvokeAI"
    assert recipe.values == {
        "prompt": "a fox",
        "negative_prompt": "blurry",
        "width": 512,
        "height": 512,
        "seed": 0,
        "guidance_scale": 7.5,
        "num_inference_steps": 30,
        "sampler": "euler_a",
        "clip_skip": 1,
        "model": "sd-1.5",
    }
    assert recipe.unused == {"loras": '[{"weight": 0.75}]'}


@pytest.mark.parametrize("keyword", ["parameters", "prompt", "invokeai_metadata"])
def test_damaged_chunks_are_never_an_error(keyword: str):
    lot = random.Random(0)
    whole = {"parameters": A1111, "prompt": json.dumps(COMFY), "invokeai_metadata": json.dumps(INVOKE)}[keyword]
    for _ in range(300):
        text = list(whole)
        for _ in range(lot.randint(1, 6)):
            text[lot.randrange(len(text))] = lot.choice('"{}[]:,x0\n')
        foreign_recipe({keyword: "".join(text)[: lot.randint(0, len(text))]})


def test_no_recipe_is_none():
    assert foreign_recipe({}) is None
    assert foreign_recipe({"prompt": "[1, 2]"}) is None
    assert foreign_recipe({"Software": "gimp"}) is None
