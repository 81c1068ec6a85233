"""From the published weights to model folders, without running anything that a file brings along.

The public interface::

    from training.importers.convert import Asked, import_file
    from training.importers.bert import import_bert

    import_file(Path("efficientnet_deepecg_unscaled.pt"), Path("models/sl_77"))      # TorchScript
    import_file(Path("wcr_afib_5y.pt"), Path("models/ssl_af_5y"))                    # fairseq checkpoint
    import_file(Path("net.pt"), Path("models/lvef"), Asked(task="lvef_40"))          # state dict
    import_bert(Path("Bert_diagnosis2classification"), Path("models/bert"))          # transformers folder

`archive` opens a file over `unpickler`, whose words `names` gives; `contents` finds the named tensors in it, `layouts`
the network and the prefix, `settings` and `tasks` what the outputs mean; `convert` puts them together.
"""
