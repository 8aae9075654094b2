"""bioimg: which transfer-learning recipe works best on these images?"""
