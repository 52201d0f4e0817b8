"""The systems that there are, by name, without loading any of them."""

# Each one's pipeline stands in loomvideo.systems; a model folder names it.
PIPELINES = {"loomvideo": "LoomVideoPipeline", "vino": "VinoPipeline", "omnivideo": "OmniVideoPipeline"}
